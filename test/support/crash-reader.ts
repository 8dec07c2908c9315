/**
 * What reads, in another VM, the disks that one left which was cut off: `crash-reader.ts
 * TYPE=DEVICE ...`, as root. It mounts one after the other, and tells the state of each file: a
 * line with the device, then JSON.
 */
import fs from 'node:fs';
import { join } from 'node:path';
import { isErrno } from '../../host/sys/errors.ts';
import { diskOf, fileBytes, placesFile, run, type Place } from './crash-disks.ts';
import { crashWays, type Found } from './crash-found.ts';

for (const argument of process.argv.slice(2)) {
  const { device, path, fileSystem } = diskOf(argument);
  run(fileSystem.mount(device, path));
  const places = JSON.parse(fs.readFileSync(join(path, placesFile), 'utf8')) as Place[];
  for (const { name, directory } of places)
    for (const way of crashWays) {
      const found: Found = { file: `${name}, ${way}`, ...read(join(path, directory, way)) };
      console.log(`${device} ${JSON.stringify(found)}`);
    }
  for (const command of fileSystem.unmount(path)) run(command);
}

function read(path: string): Omit<Found, 'file'> {
  try {
    const content = fs.readFileSync(path);
    const words = new Uint32Array(content.buffer, content.byteOffset, content.length >> 2);
    return { isFull: content.length === fileBytes, versions: [...new Set(words)] };
  } catch (error) {
    if (isErrno(error, 'EIO')) return { isFull: false, versions: [], error: 'EIO' };
    if (isErrno(error, 'ENOENT')) return { isFull: false, versions: [] };
    throw error;
  }
}
