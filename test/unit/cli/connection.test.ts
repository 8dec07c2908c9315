import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { connectTo, findTarget } from '../../../host/cli/connection.ts';

const state = mkdtempSync(join(tmpdir(), 'hatch-cli-'));
const file = join(state, 'nats.json');
writeFileSync(file, '{ "url": "nats://127.0.0.1:4567", "token": "secret" }');
after(() => rmSync(state, { recursive: true }));

test('--nats beats HATCH_NATS_URL, which beats the host of this machine', async () => {
  const environment = { HATCH_NATS_URL: 'nats://b:1', HATCH_NATS_TOKEN: 't' };
  const target = await findTarget({ nats: 'nats://a:1', state }, environment);
  assert.deepEqual([target.url, target.token], ['nats://a:1', 't']);
  assert.equal((await findTarget({ state }, environment)).url, 'nats://b:1');
});

test('the embedded server is found with its token, by option or variable', async () => {
  for (const target of [
    await findTarget({ state }, {}),
    await findTarget({}, { HATCH_STATE_DIRECTORY: state, HATCH_NATS_URL: '' }),
  ]) {
    assert.deepEqual([target.url, target.token], ['nats://127.0.0.1:4567', 'secret']);
    assert.equal(target.notice, undefined);
  }
});

test('without a host on this machine it is the default port', async () => {
  const target = await findTarget({ state: join(state, 'nowhere') }, {});
  assert.deepEqual([target.url, target.token], ['nats://127.0.0.1:4222', undefined]);
  assert.equal(target.notice, undefined);
});

test('a broken file of the host is told when the default port does not help', async () => {
  const broken = mkdtempSync(join(state, 'broken-'));
  writeFileSync(join(broken, 'nats.json'), '{');
  const target = await findTarget({ state: broken }, {});
  assert.match(target.notice ?? '', /nats\.json" cannot be used/);
  await assert.rejects(connectTo({ ...target, url: 'nats://127.0.0.1:1' }), (error) => {
    assert.ok(error instanceof HatchError);
    assert.equal(error.code, 'host.nats_unavailable');
    assert.match(error.message, /at "nats:\/\/127\.0\.0\.1:1": .*nats\.json" cannot be used/);
    return true;
  });
});

test('missing credentials are named', async () => {
  const target = await findTarget({ nats: 'nats://127.0.0.1:1', creds: '/no/such.creds' }, {});
  await assert.rejects(connectTo(target), /Cannot read NATS credentials "\/no\/such\.creds"/);
});

test('the ways in are found by option, else by variable', async () => {
  const environment = {
    HATCH_NATS_URL: 'tls://b:1',
    HATCH_NATS_NKEY_FILE: 'n',
    HATCH_NATS_TLS_CA_FILE: 'ca',
    HATCH_NATS_INBOX_PREFIX: '_INBOX.me',
  };
  const target = await findTarget(
    { 'tls-ca': 'other', 'tls-cert': 'c', 'tls-key': 'k' },
    environment,
  );
  assert.deepEqual(
    [target.nkeyFile, target.tlsCaFile, target.tlsCertFile, target.tlsKeyFile, target.inboxPrefix],
    ['n', 'other', 'c', 'k', '_INBOX.me'],
  );
});
