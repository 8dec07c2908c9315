/** A name of its own for a test's hosts, so that a look at what is left meets nobody else's. */
import { randomBytes } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HostConfig } from '../../host/config.ts';
import { assertNothingLeft, runningChildren, takeInventory } from './leak-check.ts';

export interface NamedHost {
  /** For `startHost`. */
  config: Partial<HostConfig>;
  /** Call it when the host has stopped. */
  assertNothingLeft(): Promise<void>;
}

export async function nameHost(config: Partial<HostConfig> = {}): Promise<NamedHost> {
  const name = `hatch-test-${randomBytes(4).toString('hex')}`;
  // Other hosts and servers of the test go on forking.
  const inventory = takeInventory({ prefix: name, exceptBelow: runningChildren() });
  const stateDirectory = await mkdtemp(join(tmpdir(), `${name}-`));
  return {
    config: { ...config, stateDirectory, cgroupParent: name },
    assertNothingLeft: () => assertNothingLeft(inventory),
  };
}
