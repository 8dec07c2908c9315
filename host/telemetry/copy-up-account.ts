/**
 * Copy-ups of each function, summed over its calls: for metrics by class of path, and for advice by
 * file. Of bounded size, whatever functions write.
 */
import type { CallRecord, CopyUp } from '../base/channels.ts';

/** Of what a function's root is made, in the words of metrics: few, and never a name of a file. */
export const pathClasses = ['function', 'dependencies', 'system', 'variable', 'other'] as const;
export type PathClass = (typeof pathClasses)[number];

/** Upper bounds of the histogram's buckets, in seconds; the last one is open. */
export const durationBoundsSeconds = [
  0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1,
] as const;

export interface CopyUpSums {
  files: number;
  bytesCopied: number;
  /** Of those files that were compared. */
  bytesChanged: number;
  /** Of the copies whose duration is known; counts by `durationBoundsSeconds`. */
  durationSeconds: number;
  durationCounts: number[];
}

export interface FunctionCopyUps {
  functionName: string;
  /** Calls that copied something up. */
  calls: number;
  byClass: ReadonlyMap<PathClass, CopyUpSums>;
  /** Sums by file. */
  files: CopyUp[];
}

interface Account {
  calls: number;
  byClass: Map<PathClass, CopyUpSums>;
  files: Map<string, CopyUp>;
}

const functionsMax = 1024;
const filesMax = 64;

export class CopyUpAccount {
  readonly #accounts = new Map<string, Account>();

  /** Whether it had copied anything up. */
  add({ functionName, copyUps }: Pick<CallRecord, 'functionName' | 'copyUps'>): boolean {
    if (copyUps.length === 0) return false;
    const account = this.#accountOf(functionName);
    account.calls++;
    for (const copyUp of copyUps) {
      addToClass(account.byClass, copyUp);
      addToFile(account.files, copyUp);
    }
    return true;
  }

  /** What was copied most comes first. */
  functions(): FunctionCopyUps[] {
    const all = [...this.#accounts].map(([functionName, { calls, byClass, files }]) => {
      return { functionName, calls, byClass, files: [...files.values()] };
    });
    return all.toSorted((a, b) => totalBytes(b) - totalBytes(a));
  }

  #accountOf(functionName: string): Account {
    const known = this.#accounts.get(functionName);
    if (known !== undefined) return known;
    const [oldest] = this.#accounts.keys();
    if (this.#accounts.size >= functionsMax && oldest !== undefined) this.#accounts.delete(oldest);
    const account = { calls: 0, byClass: new Map(), files: new Map() };
    this.#accounts.set(functionName, account);
    return account;
  }
}

export function pathClassOf(path: string): PathClass {
  const [, top = ''] = path.split('/');
  if (path.includes('/node_modules/')) return 'dependencies';
  if (top === 'function') return 'function';
  if (['bin', 'etc', 'lib', 'lib64', 'sbin', 'usr', 'opt'].includes(top)) return 'system';
  return ['var', 'home', 'root', 'srv'].includes(top) ? 'variable' : 'other';
}

function addToClass(byClass: Account['byClass'], copyUp: CopyUp): void {
  const pathClass = pathClassOf(copyUp.path);
  const sums = byClass.get(pathClass) ?? emptySums();
  byClass.set(pathClass, sums);
  sums.files++;
  sums.bytesCopied += copyUp.bytesCopied;
  sums.bytesChanged += copyUp.bytesChanged ?? 0;
  if (copyUp.durationNs === undefined) return;
  const seconds = copyUp.durationNs / 1e9;
  sums.durationSeconds += seconds;
  const bucket = durationBoundsSeconds.findIndex((bound) => seconds <= bound);
  const at = bucket === -1 ? durationBoundsSeconds.length : bucket;
  sums.durationCounts[at] = (sums.durationCounts[at] ?? 0) + 1;
}

function emptySums(): CopyUpSums {
  const durationCounts = Array.from({ length: durationBoundsSeconds.length + 1 }, () => 0);
  return { files: 0, bytesCopied: 0, bytesChanged: 0, durationSeconds: 0, durationCounts };
}

/** When there are too many, those that cost least are forgotten. */
function addToFile(files: Account['files'], copyUp: CopyUp): void {
  const before = files.get(copyUp.path);
  files.set(copyUp.path, before === undefined ? { ...copyUp } : sumOf(before, copyUp));
  if (files.size <= filesMax) return;
  const costs = [...files.values()].toSorted((a, b) => a.bytesCopied - b.bytesCopied);
  if (costs[0] !== undefined) files.delete(costs[0].path);
}

/** Changes that are not known of both are not known of the sum. */
function sumOf(a: CopyUp, b: CopyUp): CopyUp {
  const sum: CopyUp = { path: a.path, bytesCopied: a.bytesCopied + b.bytesCopied };
  if (a.bytesChanged !== undefined && b.bytesChanged !== undefined) {
    sum.bytesChanged = a.bytesChanged + b.bytesChanged;
    const attributes = new Set([...(a.attributesChanged ?? []), ...(b.attributesChanged ?? [])]);
    sum.attributesChanged = [...attributes];
  }
  if (a.durationNs !== undefined && b.durationNs !== undefined)
    sum.durationNs = a.durationNs + b.durationNs;
  if (a.systemCall !== undefined && a.systemCall === b.systemCall) sum.systemCall = a.systemCall;
  return sum;
}

function totalBytes({ byClass }: FunctionCopyUps): number {
  return [...byClass.values()].reduce((sum, { bytesCopied }) => sum + bytesCopied, 0);
}
