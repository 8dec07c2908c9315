import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { Output, tableLines } from '../../../host/cli/output.ts';

function output(options: { isTTY?: boolean; noColor?: boolean } = {}) {
  const stdout = Object.assign(new PassThrough(), { isTTY: options.isTTY ?? false });
  const stderr = new PassThrough();
  const streams = { stdout, stderr };
  const noColor = options.noColor ?? false;
  const read = (stream: PassThrough) => String(stream.read() ?? '');
  return {
    out: new Output({ streams, json: false, noColor }),
    stdout: () => read(stdout),
    stderr: () => read(stderr),
  };
}

test('columns are aligned, numbers to the right, and no line ends in spaces', () => {
  const rows = [
    ['a', 5, 'x'],
    ['long-name', 1234, ''],
  ];
  assert.deepEqual(tableLines(['NAME', 'CALLS', 'NOTE'], rows), [
    'NAME       CALLS  NOTE',
    'a              5  x',
    'long-name   1234',
  ]);
});

test('colours are for terminals only, and not where they are not wanted', () => {
  assert.equal(output().out.style('red', 'x'), 'x');
  assert.equal(output({ isTTY: true, noColor: true }).out.style('red', 'x'), 'x');
  assert.equal(output({ isTTY: true }).out.style('red', 'x'), '\u001b[31mx\u001b[39m');
});

test('progress is told on stderr after a second only', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const { out, stdout, stderr } = output();
  await out.progress('Quick', Promise.resolve());
  context.mock.timers.tick(5000);
  assert.equal(stderr(), '');
  const work = Promise.withResolvers<string>();
  const slow = out.progress('Slow', work.promise);
  context.mock.timers.tick(999);
  assert.equal(stderr(), '');
  context.mock.timers.tick(1);
  assert.equal(stderr(), 'Slow …\n');
  work.resolve('done');
  assert.equal(await slow, 'done');
  assert.equal(stdout(), '');
});
