/** What the demo prints: titles, steps that show they live, tables. At most 100 columns wide. */
import { styleText } from 'node:util';

type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan' | 'blue' | 'magenta';

const spinner = '⠋ ⠙ ⠹ ⠸ ⠼ ⠴ ⠦ ⠧ ⠇ ⠏'.split(' ');
const frameMs = 80;
export const columns = 100;

export const onTerminal = process.stdout.isTTY;
export const colors = onTerminal && (process.env['NO_COLOR'] ?? '') === '';

export function paint(style: Style, text: string): string {
  return colors ? styleText(style, text, { validateStream: false }) : text;
}

export function line(text = ''): void {
  process.stdout.write(`${text}\n`);
}

/** A section: what it shows in bold, what to know about it below, dim. */
export function title(text: string, ...explanation: string[]): void {
  line();
  line(paint('bold', text));
  for (const each of explanation) line(paint('dim', each));
  line();
}

/** Shows that it lives while `work` goes on, then what came of it and how long it took. */
export async function step<Result>(
  label: string,
  work: Promise<Result>,
  describe: (result: Result) => string = () => '',
): Promise<Result> {
  const began = performance.now();
  const seconds = (): string => `${((performance.now() - began) / 1000).toFixed(1)} s`.padStart(6);
  let frame = 0;
  const timer = setInterval(() => {
    if (!onTerminal) return;
    const mark = paint('cyan', spinner[frame++ % spinner.length] ?? '');
    process.stdout.write(`\r\x1b[K  ${mark} ${label} ${paint('dim', seconds().trim())}`);
  }, frameMs);
  const end = (mark: string, text: string): void => {
    clearInterval(timer);
    if (onTerminal) process.stdout.write('\r\x1b[K');
    line(`  ${mark} ${text}`);
  };
  try {
    const result = await work;
    end(paint('green', '✓'), `${label.padEnd(34)}${paint('dim', seconds())}  ${describe(result)}`);
    return result;
  } catch (error) {
    end(paint('red', '✗'), label);
    throw error;
  }
}

export interface Column {
  name: string;
  align: 'left' | 'right';
}

/** Cells as they are, aligned by what is visible of them. */
export function table(header: readonly Column[], rows: readonly string[][]): void {
  const widths = header.map(({ name }, at) =>
    Math.max(name.length, ...rows.map((row) => visible(row[at] ?? ''))),
  );
  const print = (cells: readonly string[]): string =>
    cells
      .map((cell, at) => {
        const gap = ' '.repeat((widths[at] ?? 0) - visible(cell));
        return header[at]?.align === 'right' ? gap + cell : cell + gap;
      })
      .join('   ')
      .trimEnd();
  line(`  ${paint('dim', print(header.map(({ name }) => name)))}`);
  for (const row of rows) line(`  ${print(row)}`);
}

/** Long text in one line: what does not fit ends in an ellipsis. */
export function clip(text: string, width: number): string {
  const single = text.replaceAll(/\s+/g, ' ');
  return single.length <= width ? single : `${single.slice(0, width - 1)}…`;
}

function visible(text: string): number {
  // oxlint-disable-next-line no-control-regex -- colours take no room
  return text.replaceAll(/\x1b\[[0-9;]*m/g, '').length;
}
