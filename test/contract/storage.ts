/** What every storage driver promises (host/storage/storage-driver.ts), as a suite for any. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { HatchError } from '../../host/base/errors.ts';
import type {
  RootRequest,
  StorageDriver,
  WritableRoot,
} from '../../host/storage/storage-driver.ts';
import { isErrno } from '../../host/sys/errors.ts';
import {
  getAttribute,
  makeDevice,
  makeWhiteoutAt,
  setAttributeOfPath,
} from '../../host/sys/file.ts';
import { errnoOf } from '../../host/sys/libc.ts';
import { attachMount, detachMount, makeRootPrivate } from '../../host/sys/mount.ts';
import { namespaceFlag, unshare } from '../../host/sys/namespace.ts';
import { treeOf, withLayers } from './storage-layers.ts';
import type { Layers } from './storage-layers.ts';

const owner = { ownerUid: 100_000, ownerGid: 200_000 };

export function storageSuite(
  name: string,
  open: (directory: string) => StorageDriver | Promise<StorageDriver>,
  options: {
    layersMax: number;
    limitsSize: boolean;
    /** Where layers and state are; by default below the temporary directory. */
    place?: string;
    /** What the driver keeps in its directory. */
    keeps?: string[];
  },
): void {
  // What the suite attaches is attached for this thread only.
  unshare(namespaceFlag.mount);
  makeRootPrivate();
  /** Runs `body` with a driver and an empty place for layers; checks that neither leaks. */
  const withDriver = (body: (driver: StorageDriver, layers: Layers) => Promise<void> | void) =>
    withLayers(async (layers) => {
      const fdsBefore = fs.readdirSync('/proc/self/fd').length;
      const driver = await open(layers.path('state'));
      try {
        await body(driver, layers);
      } finally {
        await driver.close();
      }
      assert.equal(fs.readdirSync('/proc/self/fd').length, fdsBefore, 'open descriptors');
      if (fs.existsSync(layers.path('state')))
        assert.deepEqual(treeOf(layers.path('state')), options.keeps ?? ['trash']);
    }, options.place);

  describe(`storage driver: ${name}`, () => {
    test('a root shows its lowers joined, the upper ones first', () =>
      withDriver(async (driver, layers) => {
        const lowerDirectories = [
          layers.make({ who: 'bottom', 'etc/a': 'a', 'etc/b': 'bottom' }),
          layers.make({ who: 'middle', 'etc/b': 'b' }),
          layers.make({ who: 'top' }),
        ];
        const root = await makeRoot(driver, { id: 'a', lowerDirectories, ...owner });
        assert.deepEqual(treeOf(at(root)), ['etc', 'etc/a', 'etc/b', 'who']);
        assert.equal(read(root, 'who'), 'top');
        assert.equal(read(root, 'etc/b'), 'b');
      }));

    test('the root directory belongs to the owner and has mode 0755, whatever the umask', () =>
      withDriver(async (driver, layers) => {
        const umask = process.umask(0o077);
        try {
          const root = await makeRoot(driver, {
            id: 'a',
            lowerDirectories: [layers.make({ file: '' })],
            ...owner,
          });
          const stat = fs.statSync(at(root));
          assert.deepEqual([stat.uid, stat.gid], [100_000, 200_000]);
          assert.equal(stat.mode & 0o7777, 0o755);
        } finally {
          process.umask(umask);
        }
      }));

    test('writes, deletions and new names land in the upper; the lowers stay as they were', () =>
      withDriver(async (driver, layers) => {
        const lower = layers.make({ keep: 'k', change: 'old', delete: 'd', 'dir/x': 'x' });
        const root = await makeRoot(driver, { id: 'a', lowerDirectories: [lower], ...owner });
        fs.writeFileSync(at(root, 'change'), 'new');
        fs.rmSync(at(root, 'delete'));
        fs.rmSync(at(root, 'dir'), { recursive: true });
        fs.writeFileSync(at(root, 'made'), 'm');
        assert.deepEqual(treeOf(at(root)), ['change', 'keep', 'made']);
        assert.equal(read(root, 'change'), 'new');
        assert.equal(fs.readFileSync(`${root.upperDirectory}/change`, 'utf8'), 'new');
        assert.deepEqual(treeOf(lower), ['change', 'delete', 'dir', 'dir/x', 'keep']);
        assert.equal(fs.readFileSync(`${lower}/change`, 'utf8'), 'old');
      }));

    test('roots over the same lowers never see what another wrote', () =>
      withDriver(async (driver, layers) => {
        const lowerDirectories = [layers.make({ file: 'lower' })];
        const roots = await Promise.all(
          [0, 1, 2, 3].map((i) => makeRoot(driver, { id: `r${i}`, lowerDirectories, ...owner })),
        );
        for (const root of roots) {
          fs.writeFileSync(at(root, 'file'), root.id);
          fs.writeFileSync(at(root, `own-${root.id}`), '');
        }
        for (const root of roots) {
          assert.equal(read(root, 'file'), root.id);
          assert.deepEqual(treeOf(at(root)), ['file', `own-${root.id}`]);
        }
      }));

    test('a root made after another of its id was destroyed starts afresh', () =>
      withDriver(async (driver, layers) => {
        const lowerDirectories = [layers.make({ file: 'lower' })];
        const first = await makeRoot(driver, { id: 'a', lowerDirectories, ...owner });
        fs.writeFileSync(at(first, 'file'), 'written');
        await first.destroy();
        const second = await makeRoot(driver, { id: 'a', lowerDirectories, ...owner });
        assert.equal(read(second, 'file'), 'lower');
      }));

    test('whiteouts and opaque directories of a layer hide what is below', () =>
      withDriver(async (driver, layers) => {
        const bottom = layers.make({ gone: '', 'dir/gone': '', 'dir/stays': '', 'opaque/old': '' });
        const top = layers.make({ 'dir/new': '', 'opaque/new': '' });
        withDirectory(top, (fd) => makeWhiteoutAt(fd, 'gone'));
        withDirectory(`${top}/dir`, (fd) => makeWhiteoutAt(fd, 'gone'));
        setAttributeOfPath(`${top}/opaque`, 'trusted.overlay.opaque', Buffer.from('y'));
        const root = await makeRoot(driver, { id: 'a', lowerDirectories: [bottom, top], ...owner });
        assert.deepEqual(treeOf(at(root)), ['dir', 'dir/new', 'dir/stays', 'opaque', 'opaque/new']);
      }));

    test('the names of a hard-linked file stay one file, also once written to', () =>
      withDriver(async (driver, layers) => {
        const lower = layers.make({ one: 'old' });
        fs.linkSync(`${lower}/one`, `${lower}/two`);
        const root = await makeRoot(driver, { id: 'a', lowerDirectories: [lower], ...owner });
        fs.appendFileSync(at(root, 'one'), '+');
        assert.equal(read(root, 'two'), 'old+');
        assert.equal(fs.statSync(at(root, 'one')).ino, fs.statSync(at(root, 'two')).ino);
        assert.equal(fs.statSync(at(root, 'one')).nlink, 2);
        fs.linkSync(at(root, 'one'), at(root, 'three'));
        assert.equal(fs.statSync(at(root, 'two')).nlink, 3);
      }));

    test('extended attributes show through and survive a write', () =>
      withDriver(async (driver, layers) => {
        const lower = layers.make({ file: 'x' });
        setAttributeOfPath(`${lower}/file`, 'security.capability', capNetRaw);
        const root = await makeRoot(driver, { id: 'a', lowerDirectories: [lower], ...owner });
        assert.deepEqual(getAttribute(at(root, 'file'), 'security.capability'), capNetRaw);
        fs.chmodSync(at(root, 'file'), 0o700);
        assert.deepEqual(
          getAttribute(`${root.upperDirectory}/file`, 'security.capability'),
          capNetRaw,
        );
      }));

    test('no attribute set inside changes what is seen of the lowers', () =>
      withDriver(async (driver, layers) => {
        const lower = layers.make({ 'dir/x': 'x' });
        const root = await makeRoot(driver, { id: 'a', lowerDirectories: [lower], ...owner });
        fs.chmodSync(at(root, 'dir'), 0o700);
        try {
          setAttributeOfPath(at(root, 'dir'), 'trusted.overlay.opaque', Buffer.from('y'));
        } catch (error) {
          assert.ok(isErrno(error, 'EPERM', 'EOPNOTSUPP'), String(error));
        }
        const upper = `${root.upperDirectory}/dir`;
        if (root.copiesUp) assert.equal(getAttribute(upper, 'trusted.overlay.opaque'), undefined);
        assert.deepEqual(treeOf(at(root)), ['dir', 'dir/x']);
      }));

    test('a change of owner and mode lands in the upper', () =>
      withDriver(async (driver, layers) => {
        const lower = layers.make({ 'dir/file': 'x' });
        const root = await makeRoot(driver, { id: 'a', lowerDirectories: [lower], ...owner });
        fs.chownSync(at(root, 'dir/file'), 100_007, 200_008);
        fs.chmodSync(at(root, 'dir/file'), 0o640);
        const stat = fs.statSync(at(root, 'dir/file'));
        assert.deepEqual([stat.uid, stat.gid, stat.mode & 0o777], [100_007, 200_008, 0o640]);
        assert.equal(fs.statSync(`${lower}/dir/file`).uid, 0);
      }));

    test('files and new directories are renamed; a lower directory wholly, or it is EXDEV', () =>
      withDriver(async (driver, layers) => {
        const lower = layers.make({ file: 'f', other: 'o', 'dir/x': 'x' });
        const root = await makeRoot(driver, { id: 'a', lowerDirectories: [lower], ...owner });
        fs.renameSync(at(root, 'file'), at(root, 'dir/renamed'));
        fs.writeFileSync(at(root, 'new'), 'n');
        fs.renameSync(at(root, 'new'), at(root, 'other'));
        fs.mkdirSync(at(root, 'made'));
        fs.renameSync(at(root, 'made'), at(root, 'made-2'));
        assert.deepEqual(treeOf(at(root)), ['dir', 'dir/renamed', 'dir/x', 'made-2', 'other']);
        assert.equal(read(root, 'other'), 'n');
        try {
          fs.renameSync(at(root, 'dir'), at(root, 'dir-2'));
          assert.deepEqual(treeOf(at(root, 'dir-2')), ['renamed', 'x']);
        } catch (error) {
          assert.ok(isErrno(error, 'EXDEV'), String(error));
          assert.deepEqual(treeOf(at(root, 'dir')), ['renamed', 'x']);
        }
      }));

    test(`${options.layersMax} layers join; paths may hold separators and be long`, () =>
      withDriver(async (driver, layers) => {
        const lowerDirectories = Array.from({ length: options.layersMax }, (_, i) =>
          layers.make(
            { [`layer-${i}`]: '', top: String(i) },
            i % 2 === 0 ? '' : `a:b,c\\d ${'x'.repeat(200)}`,
          ),
        );
        const root = await makeRoot(driver, { id: 'a', lowerDirectories, ...owner });
        assert.equal(fs.readdirSync(at(root)).length, options.layersMax + 1);
        assert.equal(read(root, 'top'), String(options.layersMax - 1));
      }));

    test('set-user-id bits and devices have no effect in a root', () =>
      withDriver(async (driver, layers) => {
        const lower = layers.make({});
        fs.copyFileSync('/usr/bin/id', `${lower}/id`);
        fs.chmodSync(`${lower}/id`, 0o4755);
        const root = await makeRoot(driver, { id: 'a', lowerDirectories: [lower], ...owner });
        const place = layers.make({});
        attachMount(root.mountFd, place);
        try {
          makeDevice({ path: `${place}/zero`, type: 'character', mode: 0o666, major: 1, minor: 5 });
          assert.throws(() => fs.openSync(`${place}/zero`, 'r'), { code: 'EACCES' });
          const { stdout } = spawnSync(`${place}/id`, ['-u'], { uid: 65_534, encoding: 'utf8' });
          assert.equal(stdout, '65534\n');
        } finally {
          detachMount(place);
        }
      }));

    test('a second root of a living id is refused', () =>
      withDriver(async (driver, layers) => {
        const lowerDirectories = [layers.make({ file: '' })];
        await makeRoot(driver, { id: 'a', lowerDirectories, ...owner });
        await assert.rejects(
          makeRoot(driver, { id: 'a', lowerDirectories, ...owner }),
          (error) => error instanceof HatchError && error.code === 'internal.bug',
        );
      }));

    test('a failed root leaves nothing and its id free', () =>
      withDriver(async (driver, layers) => {
        const lower = layers.make({ file: 'x' });
        const missing = layers.path('missing');
        for (const lowerDirectories of [[lower, missing], []])
          await assert.rejects(
            makeRoot(driver, { id: 'a', lowerDirectories, ...owner }),
            (error) =>
              error instanceof HatchError &&
              error.code === 'host.start_failed' &&
              /^Cannot (create root "a"|join \d layers): /.test(error.message),
          );
        const root = await makeRoot(driver, { id: 'a', lowerDirectories: [lower], ...owner });
        assert.equal(read(root, 'file'), 'x');
      }));

    test('closing and destroying twice is fine; a destroyed root cannot be looked into', () =>
      withDriver(async (driver, layers) => {
        const root = await makeRoot(driver, {
          id: 'a',
          lowerDirectories: [layers.make({ file: '' })],
          ...owner,
        });
        root.closeMount();
        root.closeMount();
        await Promise.all([root.destroy(), root.destroy()]);
        await root.destroy();
        assert.throws(() => root.upperDirectory, /Cannot look into root "a": it is destroyed/);
      }));

    test('names nested deeper than a path is long are destroyed', () =>
      withDriver(async (driver, layers) => {
        const root = await makeRoot(driver, {
          id: 'a',
          lowerDirectories: [layers.make({ file: '' })],
          ...owner,
        });
        nest(at(root), 'd'.repeat(250), 20);
        await root.destroy();
      }));

    if (options.limitsSize)
      test('a root takes as much as it may, then writing fails; the next is not affected', () =>
        withDriver(async (driver, layers) => {
          const lowerDirectories = [layers.make({ file: '' })];
          const sizeBytes = 1 << 20;
          const full = await makeRoot(driver, { id: 'a', lowerDirectories, ...owner, sizeBytes });
          const other = await makeRoot(driver, { id: 'b', lowerDirectories, ...owner });
          fs.writeFileSync(at(full, 'fits'), Buffer.alloc(sizeBytes / 2));
          assert.throws(() => fs.writeFileSync(at(full, 'big'), Buffer.alloc(sizeBytes)), isFull);
          fs.writeFileSync(at(other, 'big'), Buffer.alloc(sizeBytes));
        }));
    else
      test('a limit that cannot be kept is refused', () =>
        withDriver(async (driver, layers) => {
          const lowerDirectories = [layers.make({ file: '' })];
          await assert.rejects(
            makeRoot(driver, { id: 'a', lowerDirectories, ...owner, sizeBytes: 1 << 20 }),
            (error) => error instanceof HatchError && error.code === 'host.unsupported',
          );
        }));
  });
}

/** As a host does; the driver gives the layers up when it is closed. */
async function makeRoot(driver: StorageDriver, request: RootRequest): Promise<WritableRoot> {
  await driver.prepare(request.lowerDirectories);
  return driver.createRoot(request);
}

/** Node.js has no name for EDQUOT. */
export function isFull(error: unknown): boolean {
  const errno = error instanceof Error && 'errno' in error ? error.errno : 0;
  return errno === -errnoOf('ENOSPC') || errno === -errnoOf('EDQUOT');
}

// struct vfs_cap_data, revision 2, effective: CAP_NET_RAW
const capNetRaw = Buffer.from('0100000200200000000000000000000000000000', 'hex');

function at(root: WritableRoot, path = ''): string {
  return `/proc/self/fd/${root.mountFd}/${path}`;
}

function read(root: WritableRoot, path: string): string {
  return fs.readFileSync(at(root, path), 'utf8');
}

function withDirectory(path: string, body: (fd: number) => void): void {
  const fd = fs.openSync(path, 'r');
  try {
    body(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function nest(top: string, name: string, depth: number): void {
  let fd = fs.openSync(top, 'r');
  for (let i = 0; i < depth; i++) {
    fs.mkdirSync(`/proc/self/fd/${fd}/${name}`);
    const next = fs.openSync(`/proc/self/fd/${fd}/${name}`, 'r');
    fs.closeSync(fd);
    fd = next;
  }
  fs.closeSync(fd);
}
