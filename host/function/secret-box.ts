/**
 * Sealed boxes: whoever has the hosts' public key can put a secret into one, and only who has their
 * key can take it out. So a value is in the clear neither on its way nor where it is kept.
 *
 * X25519 with a key pair made for the one box, HKDF-SHA-256, AES-256-GCM. The secret's name is
 * authenticated too: a box cannot be passed off as another secret.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
} from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { z } from 'zod';

const base64 = z.base64url();

/** All binary values in base64url. */
export const sealedBoxSchema = z.strictObject({
  /** Which key of the hosts opens it. */
  keyId: z.string().regex(/^[0-9a-f]{16}$/),
  /** The public key that was made for this box. */
  ephemeralKey: base64.max(64),
  /** The encrypted value, then the tag of 16 bytes. */
  sealed: base64.max(128 * 1024),
});

export type SealedBox = z.output<typeof sealedBoxSchema>;

export const secretBytesMax = 64 * 1024;

/**
 * Secrets are a tenant's: the same name is another secret with another tenant. What a box is sealed
 * with and kept by.
 */
export function secretIdOf({ tenant, name }: { tenant: string; name: string }): string {
  return tenant === defaultTenant ? name : `${tenant}.${name}`;
}

export function secretOf(id: string): { tenant: string; name: string } {
  const [name = '', tenant = defaultTenant] = id.split('.').toReversed();
  return { tenant, name };
}

const defaultTenant = 'default';

/** @param publicKey of the hosts, as `publicKeyOf` writes it */
export function sealSecret(secret: {
  publicKey: string;
  name: string;
  value: Uint8Array;
}): SealedBox {
  const { publicKey, name, value } = secret;
  const ephemeral = generateKeyPairSync('x25519');
  const ephemeralKey = publicKeyOf(ephemeral.publicKey);
  const theirs = keyFrom(publicKey);
  const shared = diffieHellman({ privateKey: ephemeral.privateKey, publicKey: theirs });
  const { key, nonce } = deriveKey(shared, [ephemeralKey, publicKey]);
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(name));
  const sealed = Buffer.concat([cipher.update(value), cipher.final(), cipher.getAuthTag()]);
  return { keyId: keyIdOf(publicKey), ephemeralKey, sealed: sealed.toString('base64url') };
}

/** @throws Error when the box is not of this key and name, or was changed */
export function openSealedBox(privateKey: KeyObject, name: string, box: SealedBox): Buffer {
  const publicKey = publicKeyOf(createPublicKey(privateKey));
  const shared = diffieHellman({ privateKey, publicKey: keyFrom(box.ephemeralKey) });
  const { key, nonce } = deriveKey(shared, [box.ephemeralKey, publicKey]);
  const sealed = Buffer.from(box.sealed, 'base64url');
  if (sealed.length < tagBytes) throw new Error('The box is cut off');
  const tag = sealed.subarray(-tagBytes);
  const options = { authTagLength: tagBytes };
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, options).setAAD(Buffer.from(name));
  decipher.setAuthTag(tag);
  // The one copy that there is: in this mode nothing is left for the end but to verify.
  const value = decipher.update(sealed.subarray(0, -tagBytes));
  decipher.final();
  return value;
}

/** 32 bytes in base64url. */
export function publicKeyOf(key: KeyObject): string {
  return z.object({ x: z.string() }).parse(key.export({ format: 'jwk' })).x;
}

export function keyIdOf(publicKey: string): string {
  const digest = createHash('sha256').update(Buffer.from(publicKey, 'base64url'));
  return digest.digest('hex').slice(0, 16);
}

const tagBytes = 16;
const purpose = 'hatch secret 1';

function keyFrom(publicKey: string): KeyObject {
  return createPublicKey({ key: { kty: 'OKP', crv: 'X25519', x: publicKey }, format: 'jwk' });
}

/** No key is ever used twice, so the nonce may come from the same source. */
function deriveKey(shared: Buffer, publicKeys: string[]): { key: Buffer; nonce: Buffer } {
  const salt = Buffer.concat(publicKeys.map((key) => Buffer.from(key, 'base64url')));
  const bytes = Buffer.from(hkdfSync('sha256', shared, salt, purpose, 44));
  return { key: bytes.subarray(0, 32), nonce: bytes.subarray(32) };
}
