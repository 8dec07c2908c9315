import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { digestOf } from '../../../host/image/digest.ts';
import { makeEvictionPolicy } from '../../../host/image/policy/eviction-policy.ts';
import { Belady, declared, learnt } from '../../sim/layer-baselines.ts';
import { replayPulls } from '../../sim/layer-replay.ts';
import { readPulls, type Pull } from '../../sim/layer-trace.ts';

const pull = (name: string, sizeBytes = 10, timeMs = 0): Pull => {
  return { timeMs, digest: digestOf(name), sizeBytes };
};
const pullsOf = (names: string): Pull[] => names.split('').map((name) => pull(name));

describe('replaying pulls', () => {
  test('counts what was there', () => {
    const options = { capacityBytes: 20, policy: makeEvictionPolicy('lru') };
    const { hits, hitBytes } = replayPulls(pullsOf('abacbab'), options);
    // c pushes out b; then b pushes out a or c.
    assert.deepEqual({ hits, hitBytes }, { hits: 2, hitBytes: 20 });
  });

  test('never keeps what is larger than the cache', () => {
    const options = { capacityBytes: 5, policy: makeEvictionPolicy('gdsf') };
    assert.equal(replayPulls(pullsOf('aaa'), options).hits, 0);
  });

  test('tells the planner of no more than the burst', () => {
    const bursts = declared(pullsOf('aabccc'), 3);
    assert.deepEqual(
      bursts.map((burst) => [...burst.values()]),
      [[2, 1], [3]],
    );
    assert.deepEqual(
      learnt(pullsOf('aabccc'), 3).map((burst) => [...burst.values()]),
      [[], [1, 0.5]],
    );
  });

  test('fetched ahead is there, fetched late only after its time', () => {
    const pulls = [pull('a', 1e6, 0), pull('b', 1e6, 10), pull('a', 1e6, 40), pull('b', 1e6, 70)];
    const hits = (prefetch: 'ahead' | 'late' | 'none') =>
      replayPulls(pulls, {
        capacityBytes: 2e6,
        policy: makeEvictionPolicy('gdsf'),
        bursts: { expected: declared(pulls, 4), pullsEach: 4, prefetch },
      }).hits;
    // 30 ms each.
    assert.deepEqual([hits('ahead'), hits('late'), hits('none')], [4, 2, 2]);
  });

  test('Belady keeps what comes next', () => {
    const pulls = pullsOf('abcab');
    const hits = (policy: Belady | undefined) =>
      replayPulls(pulls, { capacityBytes: 20, policy: policy ?? makeEvictionPolicy('lru') }).hits;
    assert.deepEqual([hits(new Belady(pulls)), hits(undefined)], [1, 0]);
  });
});

describe('a trace of pulls', () => {
  let directory: string;
  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'hatch-pulls-'));
  });
  after(() => rmSync(directory, { recursive: true }));

  const head = 't,type,digest,size';
  const a = digestOf('a');
  const read = (text: string) => {
    const file = join(directory, 'pulls.csv');
    writeFileSync(file, text);
    return readPulls(file);
  };

  test('is read, with either line end, from its file or folder; manifests are left out', () => {
    const pulls = read(`${head}\r\n0.5,LAYER,${a},7\r\n0.6,MANIFEST,${a},20\r\n`);
    assert.deepEqual(pulls, [{ timeMs: 500, type: 'LAYER', digest: a, sizeBytes: 7 }]);
    assert.deepEqual(readPulls(directory), pulls);
  });

  const wrong: Record<string, [text: string, message: RegExp]> = {
    'another header': [`time,size\n0,1`, /begins with "time,size"/],
    'no layer': [head, /no line of type LAYER/],
    'a short line': [`${head}\n0,LAYER,${a}`, /line 2: 3 cells/],
    'a time that is none': [`${head}\nx,LAYER,${a},1`, /line 2: "t"/],
    'an unknown type': [`${head}\n0,BLOB,${a},1`, /line 2: "type"/],
    'a digest that is none': [`${head}\n0,LAYER,sha256:zz,1`, /line 2: "digest"/],
    'a negative size': [`${head}\n0,LAYER,${a},-1`, /line 2: "size"/],
    'no size': [`${head}\n0,LAYER,${a},`, /line 2: "size"/],
    'time that goes back': [`${head}\n1,LAYER,${a},1\n0,LAYER,${a},1`, /line 3: earlier/],
    'two sizes of a layer': [
      `${head}\n1,LAYER,${a},1\n1,LAYER,${a},2`,
      /line 3: .* 1 bytes before/,
    ],
  };
  for (const [what, [text, message]] of Object.entries(wrong))
    test(`with ${what} is refused by name and line`, () => {
      assert.throws(() => read(text), { name: 'TraceError', message });
    });

  test('that is not there is refused', () => {
    assert.throws(() => readPulls(join(directory, 'none')), { name: 'TraceError' });
  });
});
