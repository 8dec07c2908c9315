import assert from 'node:assert/strict';
import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  keyIdOf,
  openSealedBox,
  publicKeyOf,
  sealedBoxSchema,
  sealSecret,
} from '../../../host/function/secret-box.ts';

const { privateKey } = generateKeyPairSync('x25519');
const publicKey = publicKeyOf(createPublicKey(privateKey));

test('what was sealed comes out again, whatever it is', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 2000 }), fc.string(), (value, name) => {
      const box = sealedBoxSchema.parse(sealSecret({ publicKey, name, value }));
      assert.deepEqual(new Uint8Array(openSealedBox(privateKey, name, box)), value);
    }),
    { numRuns: 50 },
  );
});

test('a box tells nothing of its value but the length, and no two are alike', () => {
  const value = Buffer.from('the value of the secret');
  const [one, two] = [0, 1].map(() => sealSecret({ publicKey, name: 'A', value }));
  assert.notEqual(one?.sealed, two?.sealed);
  assert.notEqual(one?.ephemeralKey, two?.ephemeralKey);
  assert.equal(one?.keyId, keyIdOf(publicKey));
  assert.equal(Buffer.from(one?.sealed ?? '', 'base64url').includes(value), false);
});

test('another name, another key or any changed bit, and it stays shut', () => {
  const box = sealSecret({ publicKey, name: 'A', value: Buffer.from('value') });
  assert.throws(() => openSealedBox(privateKey, 'B', box));
  assert.throws(() => openSealedBox(generateKeyPairSync('x25519').privateKey, 'A', box));
  for (const field of ['sealed', 'ephemeralKey'] as const) {
    const bytes = Buffer.from(box[field], 'base64url');
    for (let bit = 0; bit < bytes.length * 8; bit += 7) {
      const changed = Buffer.from(bytes);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      // The last bit of an X25519 key is ignored, but counts for the key that is derived.
      const other = { ...box, [field]: changed.toString('base64url') };
      assert.throws(() => openSealedBox(privateKey, 'A', other), `${field} ${bit}`);
    }
  }
  assert.throws(() => openSealedBox(privateKey, 'A', { ...box, sealed: 'AAAA' }), /cut off/);
});
