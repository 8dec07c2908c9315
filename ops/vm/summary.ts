/** Takes the closing lines of a test run, `# pass 3`, out of its output, to add them to others. */
export class SummaryFilter {
  readonly counts = new Map<string, number>();
  readonly #onText: (text: string) => void;
  #line = '';

  constructor(onText: (text: string) => void) {
    this.#onText = onText;
  }

  /** Any part of the output; whole lines are passed on. */
  push(text: string): void {
    const lines = (this.#line + text).split('\n');
    this.#line = lines.pop() ?? '';
    for (const line of lines) {
      const [, name, count] = /^# ([a-z_]+) (\d+)$/.exec(line) ?? [];
      if (name === undefined) this.#onText(`${line}\n`);
      else this.counts.set(name, (this.counts.get(name) ?? 0) + Number(count));
    }
  }
}
