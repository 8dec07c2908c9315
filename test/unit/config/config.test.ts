import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { configHelp, loadConfig } from '../../../host/config.ts';

const empty = mkdtempSync(join(tmpdir(), 'hatch-config-'));
after(() => rmSync(empty, { recursive: true }));

function withFile(text: string): string {
  const directory = mkdtempSync(join(empty, 'file-'));
  writeFileSync(join(directory, 'hatch.json'), text);
  return directory;
}

function refusal(sources: Parameters<typeof loadConfig>[0]): string {
  let message = '';
  assert.throws(
    () => loadConfig({ directory: empty, ...sources }),
    (error) => {
      assert.ok(error instanceof HatchError);
      assert.equal(error.code, 'host.config_invalid');
      message = error.message;
      return true;
    },
  );
  return message;
}

test('without any source every key has its default', () => {
  const config = loadConfig({ directory: empty });
  assert.equal(config.natsUrl, undefined);
  assert.equal(config.stateDirectory, '/var/lib/hatchery');
  assert.equal(config.parked, 4);
  assert.ok(config.memoryBudgetMb > 0 && config.memoryBudgetMb <= totalmem() / 2 ** 20);
  assert.equal(config.uidBase, 100_000);
  assert.equal(config.fork, 'auto');
});

test('a flag beats the environment, which beats the file', () => {
  const directory = withFile('{ "parked": 1, "instancesMax": 11, "drainMs": 5 }');
  const config = loadConfig({
    args: ['--parked', '3'],
    env: { HATCH_PARKED: '2', HATCH_INSTANCES_MAX: '22' },
    directory,
  });
  assert.deepEqual([config.parked, config.instancesMax, config.drainMs], [3, 22, 5]);
});

test('layers to require are a list in the file, and names with commas elsewhere', () => {
  const directory = withFile('{ "requireLayers": ["seccomp", "apparmor"] }');
  assert.deepEqual(loadConfig({ directory }).requireLayers, ['seccomp', 'apparmor']);
  const args = ['--require-layers', 'seccomp,landlock'];
  assert.deepEqual(loadConfig({ args, directory }).requireLayers, ['seccomp', 'landlock']);
  assert.deepEqual(loadConfig({ directory: empty }).requireLayers, []);
  assert.match(refusal({ args: ['--require-layers', 'magic'] }), /--require-layers/);
});

test('an empty variable counts as unset', () => {
  assert.equal(loadConfig({ env: { HATCH_PARKED: '' }, directory: empty }).parked, 4);
});

test('a token of digits stays text', () => {
  const config = loadConfig({ args: ['--nats-token', '0123'], directory: empty });
  assert.equal(config.natsToken, '0123');
});

test('OTEL_EXPORTER_OTLP_ENDPOINT is honoured, and our own variable is stronger', () => {
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://a:4318' };
  assert.equal(loadConfig({ env, directory: empty }).otlpEndpoint, 'http://a:4318');
  const both = { ...env, HATCH_OTLP_ENDPOINT: 'http://b:4318' };
  assert.equal(loadConfig({ env: both, directory: empty }).otlpEndpoint, 'http://b:4318');
});

test('a refusal names where the wrong value came from', () => {
  assert.match(refusal({ args: ['--parked', 'many'] }), /--parked: .*expected number/);
  assert.match(refusal({ env: { HATCH_NATS_URL: 'localhost' } }), /HATCH_NATS_URL: must be like/);
  assert.match(refusal({ directory: withFile('{"parked":-1}') }), /"parked" in .*hatch\.json: /);
});

test('unknown flags and unknown keys of the file are refused by name', () => {
  assert.match(refusal({ args: ['--parkd', '1'] }), /--parkd.*hatch up --help/);
  assert.match(
    refusal({ directory: withFile('{"parkd":1}') }),
    /"parkd" in .*hatch\.json is not a/,
  );
});

test('a file that is no JSON, no object, or named and missing is refused', () => {
  assert.match(refusal({ directory: withFile('{') }), /hatch\.json" is no JSON/);
  assert.match(refusal({ directory: withFile('[1]') }), /must hold one JSON object/);
  assert.match(refusal({ args: ['--config', 'nowhere.json'] }), /cannot read ".*nowhere\.json"/);
});

test('user ids past the last one are refused', () => {
  const message = refusal({ args: ['--uid-base', '4000000000', '--uid-ranges', '60000'] });
  assert.match(message, /--uid-ranges: .*past the last user id/);
});

test('credentials without a server are refused', () => {
  assert.match(refusal({ args: ['--nats-credentials-file', '/x'] }), /set natsUrl too/);
  assert.match(refusal({ args: ['--nats-nkey-file', '/x'] }), /--nats-nkey-file: .*set natsUrl/);
});

test('credentials that contradict or lack each other are refused', () => {
  const url = ['--nats-url', 'nats://a:1'];
  const both = [...url, '--nats-credentials-file', '/x', '--nats-nkey-file', '/y'];
  assert.match(refusal({ args: both }), /give one of them/);
  assert.match(refusal({ args: [...url, '--nats-tls-key-file', '/k'] }), /set both/);
  assert.match(refusal({ args: [...url, '--nats-inbox-prefix', 'a.>'] }), /must be like _INBOX/);
});

test('the help names every key with its flag, variable and default', () => {
  const help = configHelp();
  for (const key of Object.keys(loadConfig({ directory: empty }))) {
    const flag = key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    assert.ok(help.includes(`--${flag} `), flag);
  }
  assert.match(help, /HATCH_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT; default none/);
});
