/** The programs that load whole rule sets, never on the way of a start: nft, iptables. */
import { spawn } from 'node:child_process';
import { HatchError, messageOf } from '../base/errors.ts';

const outputCharsMax = 4096;

/** Runs a program with `input`; its output. Rejects with `host.unsupported` when it fails. */
export function runProgram([program, ...args]: [string, ...string[]], input = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], env: searchPath });
    let output = '';
    let errors = '';
    const fail = (why: string): void =>
      reject(new HatchError('host.unsupported', `Cannot run "${program}": ${why}`));
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors = (errors + text).slice(0, outputCharsMax);
    });
    child.once('error', (error) => fail(messageOf(error)));
    child.once('close', (code, signal) => {
      if (code === 0) resolve(output);
      else fail(`${signal ?? `status ${code}`}: ${errors.trim()}`);
    });
    // It may end before it has read all: its status tells.
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
  });
}

const searchPath = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' };
