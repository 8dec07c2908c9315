/** A call's copy-ups for the terminal: file by file, then what to do about them. */
import type { CopyUp } from '../base/channels.ts';
import { adviseOn, amplificationOf, isMetadataOnly, type Advice } from './copy-up-advice.ts';
import { formatBytes, formatDuration, printable } from './format.ts';
import type { Paint } from './paint.ts';

const shownMax = 10;
const columnGap = '  ';

/** No lines when nothing was copied up. */
export function copyUpLines(
  copyUps: readonly CopyUp[],
  { columns, paint }: { columns: number; paint: Paint },
): string[] {
  if (copyUps.length === 0) return [];
  const largestFirst = copyUps.toSorted((a, b) => b.bytesCopied - a.bytesCopied);
  const rows = largestFirst.slice(0, shownMax).map(cellsOf);
  const more = copyUps.length - rows.length;
  return [
    paint('bold', titleOf(copyUps)),
    ...aligned(rows).map((line) => `  ${line}`),
    ...(more > 0 ? [paint('dim', `  and ${more} more`)] : []),
    ...adviseOn(copyUps).flatMap((advice) => adviceLines(advice, { columns, paint })),
  ];
}

function titleOf(copyUps: readonly CopyUp[]): string {
  const sum = (valueOf: (copyUp: CopyUp) => number | undefined): number =>
    copyUps.reduce((total, copyUp) => total + (valueOf(copyUp) ?? 0), 0);
  const files = copyUps.length === 1 ? '1 file' : `${copyUps.length} files`;
  const bytes = formatBytes(sum(({ bytesCopied }) => bytesCopied));
  const tookNs = sum(({ durationNs }) => durationNs);
  const took = tookNs === 0 ? '' : ` in ${formatDuration(tookNs)}`;
  return `overlay.copy_up: ${bytes} copied for the first write to ${files}${took}`;
}

/** Copied, changed, how often each changed byte was copied, how long, by which call, which file. */
function cellsOf(copyUp: CopyUp): string[] {
  const { path, bytesCopied, bytesChanged, durationNs, systemCall } = copyUp;
  const times = amplificationOf(copyUp);
  return [
    formatBytes(bytesCopied),
    bytesChanged === undefined ? '' : changedText(copyUp, bytesChanged),
    times === undefined || times < 1
      ? ''
      : `×${times < 9.95 ? times.toFixed(1) : Math.round(times)}`,
    durationNs === undefined ? '' : formatDuration(durationNs),
    systemCall ?? '',
    printable(path),
  ];
}

function changedText(copyUp: CopyUp, bytesChanged: number): string {
  if (bytesChanged > 0) return `${formatBytes(bytesChanged)} changed`;
  const { attributesChanged = [] } = copyUp;
  if (!isMetadataOnly(copyUp)) return 'nothing changed';
  return attributesChanged.length === 0
    ? 'name changed'
    : `${attributesChanged.join(', ')} changed`;
}

/** Columns that are empty throughout take no room; the last one is as long as it is. */
function aligned(rows: string[][]): string[] {
  const columns = rows[0]?.map((_, at) => rows.map((row) => row[at] ?? '')) ?? [];
  const widths = columns.map((cells) => Math.max(...cells.map(({ length }) => length)));
  return rows.map((row) =>
    row
      .map((cell, at) => (at === row.length - 1 ? cell : cell.padStart(widths[at] ?? 0)))
      .filter((_, at) => widths[at] !== 0)
      .join(columnGap),
  );
}

function adviceLines(
  { paths, text, bytesCopied }: Advice,
  { columns, paint }: { columns: number; paint: Paint },
): string[] {
  const [first = '', ...others] = paths;
  const which = others.length === 0 ? printable(first) : `${paths.length} files`;
  const sentence = `${which} (${formatBytes(bytesCopied)}): ${text}`;
  return wrapped(sentence, columns - 4).map((line, at) =>
    paint('yellow', `  ${at === 0 ? '→ ' : '  '}${line}`),
  );
}

function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = '';
    }
    line += line === '' ? word : ` ${word}`;
  }
  return [...lines, line];
}
