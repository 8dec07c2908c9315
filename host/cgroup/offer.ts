/** What the control groups of this machine offer, from its files alone. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CgroupLayout, defaultRoot, detectCgroupLayout } from './cgroup.ts';

export interface CgroupOffer {
  layout: CgroupLayout;
  /** Of all hierarchies together, sorted. */
  controllers: string[];
  /** Those of cpu, memory and pids that are not among them. */
  missing: string[];
  /**
   * Whether one write kills a group, as on v2 since Linux 5.14; undefined when there is no group to
   * look at.
   */
  kill: boolean | undefined;
  /**
   * Whether entering a group waits until no process forks or ends, some 10 ms: on v2, unless that
   * is mounted with `favordynmods` (Linux 6.0).
   */
  slowEntry: boolean;
}

const needed = ['cpu', 'memory', 'pids'];

/** Throws `host.unsupported` if there are no control groups. */
export function examineCgroups(
  root: string = defaultRoot,
  mountTable: string = readFileSync('/proc/self/mounts', 'utf8'),
): CgroupOffer {
  const layout = detectCgroupLayout(root);
  const unified = layout === 'v2' ? root : join(root, 'unified');
  const controllers = [
    ...(layout === 'v1' ? [] : unifiedControllers(unified)),
    ...(layout === 'v2' ? [] : directoriesIn(root).filter((name) => isHierarchy(root, name))),
  ].toSorted();
  return {
    layout,
    controllers,
    missing: needed.filter((name) => !controllers.includes(name)),
    kill: layout === 'v2' ? knowsKill(unified) : false,
    slowEntry: layout === 'v2' && !mountOptions(mountTable, root).includes('favordynmods'),
  };
}

function unifiedControllers(root: string): string[] {
  return readFileSync(join(root, 'cgroup.controllers'), 'utf8').split(/\s+/).filter(Boolean);
}

/** Named ones, such as systemd's, control nothing. */
function isHierarchy(root: string, name: string): boolean {
  return existsSync(join(root, name, 'tasks')) && !['systemd', 'unified'].includes(name);
}

/** The root group has no such file. */
function knowsKill(root: string): boolean | undefined {
  const [group] = directoriesIn(root);
  return group === undefined ? undefined : existsSync(join(root, group, 'cgroup.kill'));
}

function mountOptions(table: string, path: string): string[] {
  const mounts = table.split('\n').map((line) => line.split(' '));
  return mounts.findLast(([, mountPoint]) => mountPoint === path)?.[3]?.split(',') ?? [];
}

function directoriesIn(path: string): string[] {
  return readdirSync(path, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() || entry.isSymbolicLink())
    .map(({ name }) => name);
}
