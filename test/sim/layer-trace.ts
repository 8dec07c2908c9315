/**
 * Traces of what a registry was asked for: a CSV file with the columns `t` (seconds), `type`
 * (LAYER or MANIFEST), `digest` and `size` (bytes), in the order of time. Manifests are left out.
 */
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isDigest, type Digest } from '../../host/image/digest.ts';
import { TraceError } from './trace.ts';

export interface Pull {
  timeMs: number;
  digest: Digest;
  sizeBytes: number;
}

const columns = 't,type,digest,size';

/**
 * `path` may be a folder with one CSV file in it.
 * @throws TraceError that says which line is wrong
 */
export function readPulls(path: string): Pull[] {
  const file = fileOf(path);
  const [header = '', ...lines] = readFileSync(file, 'utf8').trim().split(/\r?\n/);
  if (header !== columns)
    throw new TraceError(`"${file}" begins with "${header.slice(0, 60)}", not "${columns}"`);
  const pulls: Pull[] = [];
  const sizes = new Map<Digest, number>();
  let lastMs = -Infinity;
  for (const [index, line] of lines.entries()) {
    const where = `"${file}", line ${index + 2}`;
    const pull = pullOf(line, where);
    if (pull.timeMs < lastMs) throw new TraceError(`${where}: earlier than the line before`);
    lastMs = pull.timeMs;
    if (pull.type === 'MANIFEST') continue;
    const sizeBytes = sizes.get(pull.digest) ?? pull.sizeBytes;
    if (sizeBytes !== pull.sizeBytes)
      throw new TraceError(`${where}: the layer had ${sizeBytes} bytes before`);
    sizes.set(pull.digest, sizeBytes);
    pulls.push(pull);
  }
  if (pulls.length === 0) throw new TraceError(`"${file}" has no line of type LAYER`);
  return pulls;
}

function fileOf(path: string): string {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined)
    throw new TraceError(`There is no "${path}": name a trace of layer pulls`);
  if (!stat.isDirectory()) return path;
  const [file, ...others] = readdirSync(path).filter((name) => name.endsWith('.csv'));
  if (file === undefined || others.length > 0)
    throw new TraceError(
      `"${path}" is a folder without a CSV file, or with several: name the file`,
    );
  return join(path, file);
}

function pullOf(line: string, where: string): Pull & { type: string } {
  const cells = line.split(',');
  const [time = '', type = '', digest = '', size = ''] = cells;
  const [seconds, sizeBytes] = [time, size].map((cell) => Number(cell === '' ? NaN : cell));
  if (cells.length !== 4) throw new TraceError(`${where}: ${cells.length} cells instead of 4`);
  if (seconds === undefined || !Number.isFinite(seconds))
    throw new TraceError(`${where}: "t" is no number of seconds`);
  if (type !== 'LAYER' && type !== 'MANIFEST')
    throw new TraceError(`${where}: "type" is neither LAYER nor MANIFEST`);
  if (!isDigest(digest)) throw new TraceError(`${where}: "digest" is no digest`);
  if (sizeBytes === undefined || !Number.isSafeInteger(sizeBytes) || sizeBytes < 0)
    throw new TraceError(`${where}: "size" is no number of bytes`);
  return { timeMs: seconds * 1000, type, digest, sizeBytes };
}
