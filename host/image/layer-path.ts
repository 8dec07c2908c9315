/** Names in a layer's tar, checked before anything is done with them. */
import { HatchError } from '../base/errors.ts';

const pathBytesMax = 4095;
const nameBytesMax = 255;
const depthMax = 256;

/**
 * The components of an entry's path, `.` and empty ones dropped (a leading slash means the layer's
 * root). Refuses `..` and what no file system could hold.
 */
export function entryComponents(path: string): string[] {
  if (Buffer.byteLength(path) > pathBytesMax)
    throw invalidEntry(path, `its path is longer than ${pathBytesMax} bytes`);
  if (path.includes('\0')) throw invalidEntry(path, 'its path holds a NUL character');
  const components = path.split('/').filter((part) => part !== '' && part !== '.');
  if (components.length > depthMax)
    throw invalidEntry(path, `its path is deeper than ${depthMax} directories`);
  for (const component of components) {
    if (component === '..') throw invalidEntry(path, 'its path climbs with ".."');
    if (Buffer.byteLength(component) > nameBytesMax)
      throw invalidEntry(path, `a name in its path is longer than ${nameBytesMax} bytes`);
  }
  return components;
}

export function invalidEntry(path: string, reason: string, cause?: unknown): HatchError {
  const shown = path.length > 200 ? `${path.slice(0, 200)}…` : path;
  return new HatchError('image.invalid', `Cannot unpack layer entry "${shown}": ${reason}`, {
    ...(cause === undefined ? {} : { cause }),
    details: { path: shown },
  });
}
