/** The secrets of one instance: files on a read-only tmpfs of its own. */
import { closeSync, fchownSync, openSync, writeFileSync } from 'node:fs';
import {
  createMount,
  knowsMountOption,
  mountAttribute,
  setMountAttributes,
  tmpfsSize,
} from '../sys/mount.ts';

export interface SecretFile {
  name: string;
  value: Buffer;
}

/** Room for the names, and for each file to be rounded up to a page. */
const bytesPerFile = 8192;

let mayNotSwap: boolean | undefined;

/**
 * A detached mount with a file for each secret that only `ownerId` reads. Wipes the values: from
 * then on they are in the kernel's memory alone, and gone when the last mount of it is.
 */
export function mountSecrets(secrets: readonly SecretFile[], ownerId: number): number {
  const { noSuid, noDev, noExec, readOnly } = mountAttribute;
  const bytes = secrets.reduce((sum, { value }) => sum + value.length + bytesPerFile, 0);
  // Since Linux 6.4; before, and where it is swapped at all, the swap has to be encrypted.
  mayNotSwap ??= knowsMountOption('tmpfs', { key: 'noswap' });
  const options = [
    ...tmpfsSize(bytes),
    { key: 'mode', value: '0500' },
    { key: 'uid', value: String(ownerId) },
    { key: 'gid', value: String(ownerId) },
    ...(mayNotSwap ? [{ key: 'noswap' }] : []),
  ];
  const mountFd = createMount({ type: 'tmpfs', options, attributes: noSuid | noDev | noExec });
  try {
    for (const secret of secrets) writeSecret(`/proc/self/fd/${mountFd}`, secret, ownerId);
    setMountAttributes(mountFd, { attributes: readOnly });
    return mountFd;
  } catch (error) {
    closeSync(mountFd);
    throw error;
  }
}

function writeSecret(directory: string, { name, value }: SecretFile, ownerId: number): void {
  const file = openSync(`${directory}/${name}`, 'wx', 0o400);
  try {
    writeFileSync(file, value);
    fchownSync(file, ownerId, ownerId);
  } finally {
    closeSync(file);
    value.fill(0);
  }
}
