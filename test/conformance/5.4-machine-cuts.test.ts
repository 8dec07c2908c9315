/** What is left of files when the machine that writes them is cut off: whole ones, as was asked. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cutMachine, outcomeOf, type Judged } from '../support/crash-cuts.ts';

// In the VM itself there is no second one.
const skip = process.env['HATCH_TEST_VM'] === undefined ? false : 'this is the VM';
const fileSystems = ['ext4', 'btrfs'];
/** On the file system itself, and on one of our roots that hands on fsync. */
const durable = ['ext4', 'btrfs', 'btrfs, snapshot'];
const cuts = 5;

test('a file is judged by what is left of it', () => {
  const found = { file: '', isFull: true };
  assert.equal(outcomeOf({ ...found, versions: [4] }, 3), 'new');
  assert.equal(outcomeOf({ ...found, versions: [3] }, 3), 'old');
  assert.equal(outcomeOf({ ...found, versions: [2] }, 3), 'older');
  assert.equal(outcomeOf({ ...found, versions: [3, 4] }, 3), 'torn');
  assert.equal(outcomeOf({ ...found, versions: [0] }, 3), 'torn');
  assert.equal(outcomeOf({ ...found, versions: [4], isFull: false }, 3), 'torn');
  assert.equal(outcomeOf({ ...found, versions: [], error: 'EIO' }, 3), 'error');
});

test(
  '5.4 a machine is cut off: files that are fsynced and renamed are old or new',
  { skip },
  async (t) => {
    const judged = await cutMachine({ fileSystems, cuts });
    t.diagnostic(summaryOf(judged));
    assert.ok(
      judged.every(({ outcome }) => outcome !== 'error'),
      'all files can be read',
    );
    for (const place of durable) {
      const replaced = of(judged, `${place}, replaced, fsync`);
      assert.equal(replaced.length, cuts);
      for (const { outcome } of replaced) assert.match(outcome, /^(new|old)$/, place);
      for (const { outcome } of of(judged, `${place}, overwritten, fsync`))
        assert.match(outcome, /^(new|old|torn)$/, place);
      assert.ok(new Set(replaced.map(({ written }) => written)).size > 1, 'cut at different times');
    }
    // Else nothing was cut off: what nobody asks to be on disk is in the memory that is lost.
    const lost = judged.filter(({ outcome }) => outcome === 'older' || outcome === 'torn');
    assert.ok(lost.length > 0);
  },
);

function of(judged: Judged[], file: string): Judged[] {
  return judged.filter((one) => one.file === file);
}

function summaryOf(judged: Judged[]): string {
  const files = [...new Set(judged.map(({ file }) => file))];
  const outcomes = (file: string): string =>
    of(judged, file)
      .map(({ outcome }) => outcome)
      .join(' ');
  return files.map((file) => `${file}: ${outcomes(file)}`).join('; ');
}
