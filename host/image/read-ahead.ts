/** Brings the files of layers into memory before they are asked for. */
import { open, opendir } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { readIn } from '../sys/page-cache.ts';

/**
 * Begins to read in all regular files below a directory. Returns how many bytes they have; none
 * is begun that would exceed `bytesMax`. Nothing waits for the disk but directories and inodes.
 */
export async function readAhead(directory: string, bytesMax: number): Promise<number> {
  let bytes = 0;
  for await (const path of filesIn(directory)) {
    await using file = await openFile(path);
    const { size } = await file.stat();
    if (bytes + size > bytesMax) continue;
    await readIn(file.fd, { offsetBytes: 0, lengthBytes: size });
    bytes += size;
  }
  return bytes;
}

/** The paths of all regular files below a directory. */
export async function* filesIn(directory: string): AsyncGenerator<string> {
  const entries = await opendir(directory, { recursive: true, bufferSize: 256 });
  for await (const entry of entries) if (entry.isFile()) yield join(entry.parentPath, entry.name);
}

/** To read it, or to advise on it; a file of a layer is never a link. */
export function openFile(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
}
