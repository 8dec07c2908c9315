/** What a running host keeps and listens on is for its owner only. */
import assert from 'node:assert/strict';
import {
  chmodSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { after, before, test } from 'node:test';
import { descendantsOf } from '../support/host-processes.ts';
import { startHost, type TestHost } from '../support/host.ts';

let host: TestHost;
before(async () => {
  const stateDirectory = mkdtempSync(join(tmpdir(), 'hatch-state-'));
  // As somebody may have made it for the host, or an archive have brought it.
  chmodSync(stateDirectory, 0o755);
  host = await startHost({ config: { stateDirectory } });
  await host.deploy('functions/hello');
  await host.call('hello', {});
});
after(() => host.stop());

test('nobody else enters the state directory, nor any below it', () => {
  assert.equal(modeOf(host.stateDirectory), 0o700);
  const all = entriesBelow(host.stateDirectory);
  // What images bring keeps its modes, behind a door that is shut.
  const layers = all.filter(({ isLayer }) => isLayer);
  assert.ok(layers.length > 2, 'there are the layers of the base image, and of hello');
  const open = all.filter(({ path, isLayer }) => !isLayer && (modeOf(path) & 0o077) !== 0);
  assert.deepEqual(
    open.map(({ path }) => `${modeOf(path).toString(8)} ${relative(host.stateDirectory, path)}`),
    [],
  );
});

test('it listens on loopback alone, and on no socket with a name', () => {
  const processes = [host.pid, ...descendantsOf(host.pid).map(({ pid }) => pid)];
  const sockets = new Set(processes.flatMap(socketsOf));
  assert.ok(sockets.size > 0);
  const names = tableOf('unix').filter(([, , , , , , inode]) => sockets.has(inode ?? ''));
  assert.deepEqual(
    names.map((fields) => fields[7]).filter((name) => name !== undefined),
    [],
  );
  const listening = ['tcp', 'tcp6'].flatMap((table) =>
    tableOf(table).filter((fields) => fields[3] === '0A' && sockets.has(fields[9] ?? '')),
  );
  const addresses = listening.map((fields) => fields[1]?.split(':')[0]);
  // 127.0.0.1, of the embedded nats-server.
  assert.deepEqual(addresses, ['0100007F']);
});

interface Entry {
  path: string;
  /** The root of an unpacked layer. */
  isLayer: boolean;
}

/** All that is ours: not what is in a layer, nor on a mount below. */
function entriesBelow(directory: string): Entry[] {
  const { dev } = statSync(directory);
  return readdirSync(directory).flatMap((name): Entry[] => {
    const path = join(directory, name);
    const status = lstatSync(path);
    const isLayer = /\/images\/layers\/[^/]+$/.test(path);
    if (!status.isDirectory()) return [{ path, isLayer: false }];
    if (status.dev !== dev) return [];
    return [{ path, isLayer }, ...(isLayer ? [] : entriesBelow(path))];
  });
}

function modeOf(path: string): number {
  return lstatSync(path).mode & 0o777;
}

/** Inodes. */
function socketsOf(pid: number): string[] {
  const directory = `/proc/${pid}/fd`;
  return readdirSync(directory).flatMap((fd) => {
    try {
      return /^socket:\[(\d+)\]$/.exec(readlinkSync(join(directory, fd)))?.[1] ?? [];
    } catch {
      // Closed meanwhile.
      return [];
    }
  });
}

function tableOf(name: string): string[][] {
  const [, ...lines] = readFileSync(`/proc/net/${name}`, 'utf8').trim().split('\n');
  return lines.map((line) => line.trim().split(/\s+/));
}
