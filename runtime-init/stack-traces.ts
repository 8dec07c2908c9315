/**
 * Stack traces that name the TypeScript line. Node's own source map support reads a module's map
 * when the module is loaded; here it is read when the first stack is asked for, off every start.
 */
import { readFileSync } from 'node:fs';
import { SourceMap, type SourceMapPayload } from 'node:module';
import { dirname, resolve } from 'node:path';

const maps = new Map<string, SourceMap | undefined>();

export function installStackTraces(): void {
  Error.prepareStackTrace = (error, frames) => {
    const lines = frames.map((frame) => `\n    at ${describeFrame(frame)}`);
    return `${headline(error)}${lines.join('')}`;
  };
}

function headline(error: Error): string {
  try {
    return Error.prototype.toString.call(error);
  } catch {
    return 'Error';
  }
}

function describeFrame(frame: NodeJS.CallSite): string {
  // oxlint-disable-next-line typescript/no-base-to-string -- V8 gives it a toString of its own
  const text = frame.toString();
  const file = frame.getFileName();
  const line = frame.getLineNumber();
  const column = frame.getColumnNumber();
  if (typeof file !== 'string' || line === null || column === null) return text;
  const original = originalPosition({ file, line, column });
  return original === undefined ? text : text.replace(`${file}:${line}:${column}`, original);
}

function originalPosition(at: { file: string; line: number; column: number }): string | undefined {
  const path = at.file.replace(/^file:\/\//, '');
  if (!path.startsWith('/function/')) return undefined;
  // Both sides count from 0 here, V8's frames from 1.
  const entry = mapOf(path)?.findEntry(at.line - 1, at.column - 1);
  if (entry === undefined || !('originalSource' in entry)) return undefined;
  const source = resolve(dirname(path), entry.originalSource);
  return `${source}:${entry.originalLine + 1}:${entry.originalColumn + 1}`;
}

function mapOf(path: string): SourceMap | undefined {
  if (!maps.has(path)) {
    try {
      const payload = JSON.parse(readFileSync(`${path}.map`, 'utf8')) as SourceMapPayload;
      maps.set(path, new SourceMap(payload));
    } catch {
      // A bundle without a map has unmapped stacks.
      maps.set(path, undefined);
    }
  }
  return maps.get(path);
}
