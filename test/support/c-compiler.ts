/** Asks the C compiler what constants, sizes and offsets are. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A C expression, and what we take it for. */
export type Claim = [expression: string, value: number];

/** The size and offsets of a structure. */
export function layout(type: string, size: number, offsets: Record<string, number>): Claim[] {
  return [
    pair(`sizeof(${type})`, size),
    ...Object.entries(offsets).map(([field, at]) => pair(`offsetof(${type}, ${field})`, at)),
  ];
}

export function pair(expression: string, value: number): Claim {
  return [expression, value];
}

/** Runs a C program that prints each expression. Fails on a name that `headers` do not have. */
export function evaluate(headers: string, expressions: string[]): Map<string, bigint> {
  const unique = [...new Set(expressions)];
  const place = fs.mkdtempSync(join(tmpdir(), 'hatch-abi-'));
  try {
    const prints = unique.map((one) => `  printf("%lld\\n", (long long)(${one}));`);
    fs.writeFileSync(
      `${place}/abi.c`,
      `${headers}\nint main(void) {\n${prints.join('\n')}\n  return 0;\n}\n`,
    );
    execFileSync('gcc', ['-o', `${place}/abi`, `${place}/abi.c`], { stdio: 'pipe' });
    const lines = execFileSync(`${place}/abi`, { encoding: 'utf8' }).trim().split('\n');
    assert.equal(lines.length, unique.length);
    return new Map(unique.map((one, index) => [one, BigInt(lines[index] ?? '')]));
  } finally {
    fs.rmSync(place, { recursive: true });
  }
}
