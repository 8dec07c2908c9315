/**
 * The keys that open secrets: X25519 private keys in PEM, one below the other in a file that only
 * its owner reads. The first one counts for new secrets; the others open what is older. The file is
 * read again when it has changed.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { HatchError, messageOf } from '../base/errors.ts';
import { keyIdOf, publicKeyOf } from './secret-box.ts';

interface SecretKey {
  id: string;
  publicKey: string;
  privateKey: KeyObject;
}

export class SecretKeys {
  readonly #file: string;
  #keys: SecretKey[] = [];
  #version = '';

  /**
   * @param options.create whether to make a file that is missing, with one key
   * @throws HatchError `host.config_invalid` when the file is missing, open to others, or no keys
   */
  static open(file: string, { create }: { create: boolean }): SecretKeys {
    if (create && statSync(file, { throwIfNoEntry: false }) === undefined) writeNewKey(file);
    const keys = new SecretKeys(file);
    keys.#read();
    return keys;
  }

  private constructor(file: string) {
    this.#file = file;
  }

  /** The public key to seal new secrets with. */
  get publicKey(): string {
    return this.#read()[0]?.publicKey ?? '';
  }

  /** Of all keys, that for new secrets first. */
  get ids(): string[] {
    return this.#read().map(({ id }) => id);
  }

  /** @throws HatchError `host.config_invalid` when there is no such key */
  find(id: string): KeyObject {
    const key = this.#read().find((one) => one.id === id);
    if (key !== undefined) return key.privateKey;
    throw invalid(
      this.#file,
      `key ${id} is not in it: add the key of the host on which it was made`,
    );
  }

  #read(): SecretKey[] {
    try {
      const { mtimeNs, ino, mode } = statSync(this.#file, { bigint: true });
      const version = `${ino}.${mtimeNs}.${mode}`;
      if (version === this.#version) return this.#keys;
      if ((mode & 0o077n) !== 0n) throw new Error('others may read it: chmod it to 600');
      this.#keys = parseKeys(readFileSync(this.#file, 'latin1'));
      this.#version = version;
      return this.#keys;
    } catch (cause) {
      throw invalid(this.#file, messageOf(cause), cause);
    }
  }
}

function parseKeys(text: string): SecretKey[] {
  const blocks = text.match(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/g) ?? [];
  if (blocks.length === 0) throw new Error('it holds no private key in PEM');
  return blocks.map((pem) => {
    const privateKey = createPrivateKey(pem);
    if (privateKey.asymmetricKeyType !== 'x25519') throw new Error('its keys must be of X25519');
    const publicKey = publicKeyOf(createPublicKey(privateKey));
    return { id: keyIdOf(publicKey), publicKey, privateKey };
  });
}

function writeNewKey(file: string): void {
  const { privateKey } = generateKeyPairSync('x25519');
  const temporary = `${file}.new`;
  rmSync(temporary, { force: true });
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' });
  writeFileSync(temporary, pem, { mode: 0o600, flag: 'wx' });
  renameSync(temporary, file);
}

function invalid(file: string, problem: string, cause?: unknown): HatchError {
  const message = `Cannot use the keys of secrets in "${file}": ${problem}`;
  return new HatchError('host.config_invalid', message, cause === undefined ? {} : { cause });
}
