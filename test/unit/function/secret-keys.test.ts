import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { SecretKeys } from '../../../host/function/secret-keys.ts';

const directory = mkdtempSync(join(tmpdir(), 'hatch-keys-'));
after(() => rmSync(directory, { recursive: true }));

function refused(file: string, message: RegExp): void {
  const open = (): SecretKeys => SecretKeys.open(file, { create: false });
  assert.throws(open, { code: 'host.config_invalid', message });
}

function newKey(type: 'x25519' | 'ed25519' = 'x25519'): string {
  const pair = type === 'x25519' ? generateKeyPairSync('x25519') : generateKeyPairSync('ed25519');
  return pair.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
}

test('a missing file is made once, for its owner only, or refused', () => {
  const file = join(directory, 'made');
  refused(file, /made": ENOENT/);
  const made = SecretKeys.open(file, { create: true });
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(SecretKeys.open(file, { create: true }).ids, made.ids);
});

test('a new first key counts without a restart, and older ones still open', () => {
  const file = join(directory, 'rotated');
  const keys = SecretKeys.open(file, { create: true });
  const [old = ''] = keys.ids;
  writeFileSync(file, newKey() + readFileSync(file, 'utf8'));
  assert.equal(keys.ids.length, 2);
  assert.notEqual(keys.ids[0], old);
  assert.equal(keys.ids[1], old);
  assert.equal(keys.find(old).asymmetricKeyType, 'x25519');
  assert.throws(() => keys.find('0123456789abcdef'), /add the key of the host on which/);
});

test('a file that others may read, or of something else, is refused', () => {
  const file = join(directory, 'bad');
  writeFileSync(file, newKey(), { mode: 0o600 });
  chmodSync(file, 0o640);
  refused(file, /others may read it: chmod it to 600/);
  chmodSync(file, 0o600);
  writeFileSync(file, 'nothing');
  refused(file, /holds no private key/);
  writeFileSync(file, newKey('ed25519'));
  refused(file, /must be of X25519/);
});
