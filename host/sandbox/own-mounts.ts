/** What only one function gets besides its root: mounts of its secrets and of its volumes. */
import { closeSync, constants, fchmodSync, fchownSync, fstatSync, openSync } from 'node:fs';
import { HatchError, messageOf } from '../base/errors.ts';
import { functionUser } from '../base/function-user.ts';
import type { IdRange } from '../namespace/id-ranges.ts';
import type { Volume, Volumes } from '../storage/volumes.ts';
import { isErrno } from '../sys/errors.ts';
import { makeDirectoryAt, openAt, resolve } from '../sys/file.ts';
import { mountSecrets, type SecretFile } from './secrets-mount.ts';

export interface OwnMounts {
  /** Wiped when the instance has them. */
  secrets?: readonly SecretFile[];
  volumes?: readonly AttachedVolume[];
}

export interface AttachedVolume extends Volume {
  /** Absolute, inside the container. */
  path: string;
}

interface Container {
  /** Of its root. */
  mountFd: number;
  range: Pick<IdRange, 'firstHostId' | 'userNamespaceFd'>;
  volumes: Pick<Volumes, 'mount'> | undefined;
}

/** Detached, in the order in which they are sent; ours until disposed of. */
export function mountOwn(
  { secrets, volumes = [] }: OwnMounts,
  container: Container,
): { fds: readonly number[]; [Symbol.dispose](): void } {
  const { firstHostId, userNamespaceFd } = container.range;
  const fds: number[] = [];
  const close = (): void => fds.forEach((fd) => closeSync(fd));
  try {
    if (secrets !== undefined) fds.push(mountSecrets(secrets, firstHostId + functionUser.uid));
    for (const volume of volumes) {
      if (container.volumes === undefined)
        throw new HatchError(
          'internal.bug',
          `Cannot mount volume "${volume.name}": there are none`,
        );
      makeMountPoint(container.mountFd, volume);
      fds.push(container.volumes.mount(volume, userNamespaceFd));
    }
  } catch (error) {
    close();
    throw error;
  }
  return { fds, [Symbol.dispose]: close };
}

/** A directory that is not there is made, and belongs to the container's root, as the root does. */
function makeMountPoint(mountFd: number, { name, path }: AttachedVolume): void {
  let directory = openSync(`/proc/self/fd/${mountFd}`, constants.O_DIRECTORY);
  const { uid, gid } = fstatSync(directory);
  try {
    for (const part of path.slice(1).split('/')) {
      const next = openOrMake(directory, part, { uid, gid });
      closeSync(directory);
      directory = next;
    }
  } catch (cause) {
    throw new HatchError(
      'function.load_failed',
      `Cannot attach volume "${name}": the image lets no directory be at "${path}": ` +
        `${messageOf(cause)}; choose another path`,
      { cause },
    );
  } finally {
    closeSync(directory);
  }
}

function openOrMake(parent: number, name: string, owner: { uid: number; gid: number }): number {
  const how = {
    flags: constants.O_DIRECTORY | constants.O_NOFOLLOW,
    resolve: resolve.beneath | resolve.noSymlinks | resolve.noMagicLinks,
  };
  try {
    return openAt(parent, name, how);
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error;
  }
  makeDirectoryAt(parent, name, 0o755);
  const made = openAt(parent, name, how);
  fchownSync(made, owner.uid, owner.gid);
  fchmodSync(made, 0o755);
  return made;
}
