/**
 * `npm run record-syscalls`: which system calls Node.js makes in a broad workload, under each
 * profile and in the way that instances run: forkable, of one thread, under the filter before the
 * first of the workload. Keeps them in test/support/recorded-calls.json, and prints what a profile
 * refused of them, and what it allows that nobody asked for. Needs strace.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { argumentRules } from '../host/security/argument-rules.ts';
import { compileProfile } from '../host/security/security.ts';
import type { SeccompProfile } from '../host/protocol/invoke.ts';
import {
  compareRecorded,
  complaintsOf,
  readTrace,
  type CallsByName,
  type RecordedCalls,
} from '../test/support/recorded-calls.ts';

const repository = join(import.meta.dirname, '..');
const tests = join(repository, 'test/integration');

if (process.arch !== 'x64') throw new Error('The recording is of x64: run this on such a machine');
const recorded: RecordedCalls = {
  made: {
    by: 'npm run record-syscalls: test/integration/seccomp-workload.ts under strace',
    node: process.version,
    kernel: release(),
    architecture: 'x64',
  },
  profiles: { node: record('node'), strict: record('strict') },
};
const file = join(repository, 'test/support/recorded-calls.json');
writeFileSync(file, `${JSON.stringify(recorded)}\n`);
spawnSync('oxfmt', [file]);
const complaints = (['node', 'strict'] as const).flatMap(tell);
for (const complaint of complaints) console.error(complaint);
process.exitCode = complaints.length === 0 ? 0 : 1;

function record(profile: SeccompProfile): CallsByName {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-record-'));
  try {
    const trace = join(directory, 'trace');
    const raw = [...new Set(argumentRules.map(({ call }) => call))].join(',');
    const { status, stdout, stderr } = spawnSync(
      'strace',
      [
        '-f',
        '-qq',
        `--output=${trace}`,
        `--raw=${raw}`,
        process.execPath,
        // As the zygote runs, so that no thread is older than the filter.
        '--single-threaded',
        join(tests, 'seccomp-child.ts'),
        join(tests, 'seccomp-workload.ts'),
      ],
      {
        encoding: 'utf8',
        env: {
          ...process.env,
          PROFILE: profile,
          FILTER: compileProfile(profile).bpf.toString('base64'),
        },
      },
    );
    if (status !== 0) throw new Error(`The workload failed under "${profile}":\n${stderr}`);
    return readTrace(readFileSync(trace, 'utf8'), stdout.trim().split('\n'));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function tell(profile: SeccompProfile): string[] {
  const calls = recorded.profiles[profile];
  const { refused, unseen } = compareRecorded(profile, calls);
  console.log(`profile ${profile}: ${Object.keys(calls).length} calls seen`);
  for (const { call, verdict, reason } of refused) console.log(`  ${verdict} ${call}: ${reason}`);
  for (const { call, reason } of unseen) console.log(`  not seen ${call}: ${reason}`);
  return complaintsOf(profile, calls);
}
