import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { commands } from '../../../host/cli/commands.ts';
import { runCommandLine } from '../../../host/cli/main.ts';

async function hatch(...args: string[]) {
  const streams = { stdout: new PassThrough(), stderr: new PassThrough() };
  const signal = new AbortController().signal;
  const code = await runCommandLine({ args, environment: {}, streams, signal });
  const read = (stream: PassThrough) => String(stream.read() ?? '');
  return { code, stdout: read(streams.stdout), stderr: read(streams.stderr) };
}

test('without arguments every command is listed', async () => {
  const { code, stdout } = await hatch();
  assert.equal(code, 0);
  for (const { name, summary } of commands) {
    assert.ok(stdout.includes(`  ${name} `), name);
    assert.ok(stdout.includes(summary), name);
  }
});

test('every command has help with an example, before it looks at anything else', async () => {
  for (const { name, passesArguments } of commands) {
    const words = name.split(' ');
    for (const args of [
      [...words, '--help'],
      ['help', ...words],
    ]) {
      if (passesArguments === true && args[0] !== 'help') continue;
      const { code, stdout } = await hatch(...args);
      assert.equal(code, 0, name);
      assert.match(stdout, new RegExp(`^Usage: hatch ${name}`));
      assert.match(stdout, new RegExp(`Examples?:\n  .*hatch ${name}`), name);
    }
  }
});

test('wrong usage exits with 2 and says what would be right', async () => {
  const cases: [args: string[], message: RegExp][] = [
    [['depoly', 'x'], /no command "depoly"; did you mean "hatch deploy"\?/],
    [['frobnicate'], /no command "frobnicate" \(see "hatch --help"\)/],
    [['image'], /"image" wants one of "hatch image ls"/],
    [['deploy'], /an argument is missing: it takes DIR \(see "hatch deploy --help"\)/],
    [['ls', 'x'], /"x" is one argument too many/],
    [['ls', '--nope'], /Unknown option '--nope'/],
    [['invoke', 'a b'], /"a b" must be the name of a function/],
    [['invoke', 'hello', '--timeout', 'soon'], /--timeout "soon" must be a whole number/],
    [['invoke', 'hello', '--header', 'x'], /--header "x" must be KEY=VALUE/],
    [['invoke', 'hello', '@/no/such/file'], /payload cannot be read/],
    [['alias', 'hello', 'live'], /either a version or --remove/],
    [['alias', 'hello', 'live', '1', '--remove'], /either a version or --remove/],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await hatch(...args, ...(args[0] === 'image' ? [] : none));
    assert.match(stderr, message);
    assert.equal(code, 2, args.join(' '));
    assert.equal(stdout, '');
  }
});

/** A server that is not there: whoever tries to connect fails with another exit code. */
const none = ['--nats', 'nats://127.0.0.1:1'];

test('a server that is not there is a failure, not wrong usage', async () => {
  const { code, stderr } = await hatch('ls', ...none);
  assert.equal(code, 1);
  assert.match(stderr, /^error: Cannot reach NATS at "nats:\/\/127\.0\.0\.1:1": /);
  assert.match(stderr, /\(host\.nats_unavailable\)\n$/);
});
