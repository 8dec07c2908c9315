/** Check 26: what an engine mounts for a function, while others change what lies beside it. */
import assert from 'node:assert/strict';
import { startProbe, type Probe } from '../support/containers.ts';
import { DiskHost } from '../support/disk-host.ts';
import type { Check } from './check.ts';
import { deployLayer } from './hostile-layer.ts';

const path = '/data/own';
const volumes = [{ name: 'own', path, sizeMb: 32 }];
const startsWhileSwapping = 20;

export const volumeCheck: Check = {
  number: 26,
  what: 'a volume is mounted at no link, whatever those who share it swap (CVE-2021-30465)',
  async run({ config }) {
    await using onDisk = await DiskHost.start('btrfs', { sizeMiB: 2048, config });
    const { host } = onDisk;
    for (const [at, name] of ['data', 'data/own'].entries()) {
      const link = { name, type: 'symlink', linkname: '/etc' } as const;
      await assert.rejects(deployLayer(host, `linked-${at}`, [link], { manifest: { volumes } }), {
        code: 'deploy.failed',
        message: /Cannot attach volume "own"/,
      });
    }
    const inside = [...volumes, { name: 'inner', path: `${path}/inner`, sizeMb: 32 }];
    await assert.rejects(startProbe(host, 'nested', { volumes: inside }), {
      code: 'deploy.invalid',
      message: /lies in or above that of "own"/,
    });
    for (const key of ['mounts', 'binds'])
      await assert.rejects(startProbe(host, 'foreign', { [key]: ['/:/h'] }), {
        code: 'deploy.invalid',
      });
    const manifest = { volumes, reuse: 'never', instancesMax: 4, timeoutMs: 300_000 };
    const probe = await startProbe(host, 'swapped', manifest);
    const place = await placeOf(probe);
    const swapping = swapUntilEnd(probe);
    for (let starts = 0; starts < startsWhileSwapping; starts++)
      assert.deepEqual(await placeOf(probe), place);
    await probe.ask({ do: 'write', path: `${path}/end`, text: '' });
    assert.ok((await swapping) > startsWhileSwapping, 'it was swapped all the time');
  },
};

/** Where a new instance has the volume, and what it finds there. */
function placeOf(probe: Probe): Promise<unknown> {
  return probe.evaluate((at) => {
    const fs = process.getBuiltinModule('node:fs');
    const mounts = fs.readFileSync('/proc/self/mounts', 'utf8').trimEnd().split('\n');
    const ofVolume = mounts.map((line) => line.split(' ')).filter(([, , type]) => type === 'btrfs');
    const { uid, mode, ino } = fs.statSync(at);
    return { mounted: ofVolume.map(([, target]) => target), uid, mode, ino };
  }, path);
}

/** Until there is the file that ends it; gives how often. */
function swapUntilEnd(probe: Probe): Promise<number> {
  return probe.evaluate(async (at) => {
    const fs = process.getBuiltinModule('node:fs');
    const { setTimeout: sleep } = process.getBuiltinModule('node:timers/promises');
    const holder = at.slice(0, at.lastIndexOf('/'));
    fs.symlinkSync('/etc', `${at}/link`);
    fs.mkdirSync(`${at}/directory`);
    let swaps = 0;
    for (; !fs.existsSync(`${at}/end`); swaps++) {
      fs.renameSync(`${at}/link`, `${at}/spare`);
      fs.renameSync(`${at}/directory`, `${at}/link`);
      fs.renameSync(`${at}/spare`, `${at}/directory`);
      // What holds the volume itself cannot be swapped.
      for (const taken of [at, holder]) {
        let isTaken = true;
        try {
          fs.renameSync(taken, `${taken}-away`);
        } catch {
          isTaken = false;
        }
        if (isTaken) return -1;
      }
      await sleep(1);
    }
    return swaps;
  }, path);
}
