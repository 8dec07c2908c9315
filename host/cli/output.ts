/** What commands print: results on stdout, everything about them on stderr. */
import { styleText } from 'node:util';

export interface Streams {
  stdout: NodeJS.WritableStream & { isTTY?: boolean; columns?: number };
  stderr: NodeJS.WritableStream & { isTTY?: boolean };
}

export type Cell = string | number;

type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow';

const progressDelayMs = 1000;
const columnsDefault = 100;

export class Output {
  readonly json: boolean;
  readonly #streams: Streams;
  readonly #noColor: boolean;

  constructor(options: { streams: Streams; json: boolean; noColor: boolean }) {
    this.#streams = options.streams;
    this.json = options.json;
    this.#noColor = options.noColor;
  }

  get columns(): number {
    return this.#streams.stdout.columns ?? columnsDefault;
  }

  get isTerminal(): boolean {
    return this.#streams.stdout.isTTY === true;
  }

  get colors(): boolean {
    return this.isTerminal && !this.#noColor;
  }

  line(text: string): void {
    this.#streams.stdout.write(`${text}\n`);
  }

  bytes(bytes: Uint8Array): void {
    this.#streams.stdout.write(bytes);
  }

  note(text: string): void {
    this.#streams.stderr.write(`${text}\n`);
  }

  value(value: unknown): void {
    this.line(JSON.stringify(value, undefined, 2));
  }

  /** Aligned columns under dim titles; numbers to the right. */
  table(titles: string[], rows: Cell[][]): void {
    for (const line of tableLines(titles, rows).map((text, index) =>
      index === 0 ? this.style('dim', text) : text,
    ))
      this.line(line);
  }

  style(style: Style, text: string): string {
    return this.colors ? styleText(style, text, { validateStream: false }) : text;
  }

  /** Says on stderr what is going on when it takes longer than a second. */
  async progress<Result>(what: string, work: Promise<Result>): Promise<Result> {
    const timer = setTimeout(() => this.note(`${what} …`), progressDelayMs);
    try {
      return await work;
    } finally {
      clearTimeout(timer);
    }
  }

  /** For `top --watch`. */
  clear(): void {
    if (this.isTerminal) this.#streams.stdout.write('\u001b[H\u001b[2J');
  }
}

export function tableLines(titles: string[], rows: Cell[][]): string[] {
  const texts = [titles, ...rows.map((row) => row.map(String))];
  const widths = titles.map((_, at) => Math.max(...texts.map((row) => (row[at] ?? '').length)));
  const isNumber = titles.map(
    (_, at) => rows.length > 0 && rows.every((row) => typeof row[at] === 'number'),
  );
  return texts.map((row) =>
    row
      .map((cell, at) =>
        isNumber[at] === true ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0),
      )
      .join('  ')
      .trimEnd(),
  );
}

/** `2026-01-31 13:05:09`, in the time zone of the reader. */
export function time(ms: number): string {
  const date = new Date(ms);
  const two = (value: number) => String(value).padStart(2, '0');
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-');
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')}`;
}
