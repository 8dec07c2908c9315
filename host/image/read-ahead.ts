/** Brings the files of layers into memory before they are asked for. */
import { open, readdir } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { advise } from '../sys/page-cache.ts';

/**
 * Begins to read in all regular files below a directory. Returns how many bytes they have; none
 * is begun that would exceed `bytesMax`. Nothing waits for the disk but directories and inodes.
 */
export async function readAhead(directory: string, bytesMax: number): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    await using file = await open(
      join(entry.parentPath, entry.name),
      constants.O_RDONLY | constants.O_NOFOLLOW,
    );
    const { size } = await file.stat();
    if (bytes + size > bytesMax) continue;
    advise(file.fd, 'willNeed');
    bytes += size;
  }
  return bytes;
}
