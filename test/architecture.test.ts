/**
 * The shape of the code: who may import whom, sizes, names, and koffi in one file. It reads every
 * file as text; the rules are data, and each rule is proven below on a sample that breaks it.
 */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { basename, dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

interface SourceFile {
  /** Relative to the repository, with forward slashes. */
  path: string;
  text: string;
}

interface Report {
  problems: string[];
  files: number;
  imports: number;
}

/** From the bottom up: a folder imports folders of lower levels, never its own level or above. */
const levels = [
  ['host/base'],
  ['host/protocol', 'host/sys'],
  ['host/cgroup', 'host/namespace', 'host/storage', 'host/network', 'host/security'],
  ['host/image', 'host/sandbox'],
  ['host/zygote'],
  ['host/pool'],
  ['host/function'],
  ['host/dispatch'],
  ['host/telemetry', 'host/dashboard'],
  // Draws what telemetry knows.
  ['host/cli'],
  ['host'],
];
const levelOf = new Map(
  levels.flatMap((folders, level) => folders.map((folder) => [folder, level] as const)),
);
/** What runs inside a container is small: it shares these with the host and nothing else. */
const runtimeInitMayImport = new Set(['host/base', 'host/protocol', 'host/sys']);
const compositionFiles = new Set(['main.ts', 'config.ts', 'engine.ts', 'doctor.ts']);
const forbiddenNames = new Set(['utils.ts', 'index.ts']);
const koffiOwner = 'host/sys/libc.ts';
const columnsMax = 100;
const fileLinesMax = 400;
const roots = ['host', 'runtime-init', 'functions', 'images', 'ops', 'test'];

const repository = join(import.meta.dirname, '..');

test('the repository keeps its architecture', () => {
  const report = check(readRepository());
  assert.deepEqual(report.problems, []);
});

test('an empty view of the repository is a failure, not a pass', () => {
  assert.match(check([]).problems.join('\n'), /saw 0 files and 0 imports/);
});

/** Each sample breaks one rule; the checker must name that fault and no other. */
const seededFaults: Record<string, { path: string; text: string; expected: RegExp }> = {
  'an upward import': {
    path: 'host/pool/pool.ts',
    text: "import { dispatch } from '../dispatch/dispatch.ts';",
    expected: /host\/pool may not import host\/dispatch/,
  },
  'an upward import over several lines': {
    path: 'host/base/clock.ts',
    text: "import {\n  mount,\n  unmount,\n} from '../sys/mount.ts';",
    expected: /host\/base may not import host\/sys/,
  },
  'an upward import of types only': {
    path: 'host/base/clock.ts',
    text: "import type { Fd } from '../sys/file.ts';",
    expected: /host\/base may not import host\/sys/,
  },
  'an import between folders of one level': {
    path: 'host/sandbox/sandbox.ts',
    text: "import { pull } from '../image/pull.ts';",
    expected: /host\/sandbox may not import host\/image/,
  },
  'an upward re-export': {
    path: 'host/sys/mount.ts',
    text: "export { Pool } from '../pool/pool.ts';",
    expected: /host\/sys may not import host\/pool/,
  },
  'an upward dynamic import': {
    path: 'host/zygote/zygote.ts',
    text: "const late = await import('../function/manifest.ts');",
    expected: /host\/zygote may not import host\/function/,
  },
  'an upward import of the composition': {
    path: 'host/cli/main.ts',
    text: "import { startHost } from '../main.ts';",
    expected: /host\/cli may not import host$/,
  },
  'a folder without a level': {
    path: 'host/shiny/shiny.ts',
    text: "import { nowNs } from '../base/clock.ts';",
    expected: /folder host\/shiny has no level/,
  },
  'an import of a folder without a level': {
    path: 'host/pool/pool.ts',
    text: "import { shine } from '../shiny/shiny.ts';",
    expected: /imports host\/shiny, which has no level/,
  },
  'a new file beside the composition': {
    path: 'host/helpers.ts',
    text: "import { nowNs } from './base/clock.ts';",
    expected: /only main\.ts, config\.ts/,
  },
  'the host importing its tests': {
    path: 'host/pool/pool.ts',
    text: "import { fake } from '../../test/support/fake.ts';",
    expected: /imports test\/support, which has no level/,
  },
  'runtime-init reaching into the host': {
    path: 'runtime-init/main.ts',
    text: "import { Pool } from '../host/pool/pool.ts';",
    expected: /runtime-init may not import host\/pool/,
  },
  'a function reaching into the host': {
    path: 'functions/hello/hello.ts',
    text: "import { nowNs } from '../../host/base/clock.ts';",
    expected: /a function may not import host\/base/,
  },
  'a function reaching into another': {
    path: 'functions/hello/hello.ts',
    text: "import { render } from '../markdown/markdown.ts';",
    expected: /a function may not import functions\/markdown/,
  },
  'a stray koffi': {
    path: 'host/sandbox/sandbox.ts',
    text: "import koffi from 'koffi';",
    expected: /koffi belongs to host\/sys\/libc\.ts/,
  },
  'a stray koffi, required': {
    path: 'ops/probe.ts',
    text: "const koffi = require('koffi');",
    expected: /koffi belongs to host\/sys\/libc\.ts/,
  },
  'a file that is too long': {
    path: 'host/base/clock.ts',
    text: 'x;\n'.repeat(fileLinesMax + 1),
    expected: /401 lines, at most 400/,
  },
  'a line that is too long': {
    path: 'ops/setup.sh',
    text: `# ${'x'.repeat(columnsMax - 1)}`,
    expected: /ops\/setup\.sh:1: 101 columns, at most 100/,
  },
  'a file named utils.ts': {
    path: 'host/base/utils.ts',
    text: '',
    expected: /name it after what it holds/,
  },
  'a barrel': {
    path: 'test/support/index.ts',
    text: '',
    expected: /name it after what it holds/,
  },
};

for (const [name, { path, text, expected }] of Object.entries(seededFaults)) {
  test(`reports ${name}`, () => {
    const problems = check([...soundSample(), { path, text }]).problems;
    assert.equal(problems.length, 1, problems.join('\n'));
    assert.match(problems[0] ?? '', expected);
  });
}

test('reports nothing on a sound sample', () => {
  assert.deepEqual(check(soundSample()).problems, []);
});

/** Enough to be believed, and close to the edges of every rule. */
function soundSample(): SourceFile[] {
  const downward = levels
    .slice(1, -1)
    .flat()
    .map((folder) => ({
      path: `${folder}/sample.ts`,
      text: "import { nowNs } from '../base/clock.ts';\nimport './sibling.ts';\n",
    }));
  return [
    ...downward,
    { path: koffiOwner, text: "import koffi from 'koffi';\n" },
    { path: 'host/main.ts', text: "import { main } from './cli/main.ts';\n" },
    { path: 'runtime-init/main.ts', text: "import { frame } from '../host/protocol/frame.ts';\n" },
    { path: 'functions/hello/hello.ts', text: "import type { Context } from '../types.ts';\n" },
    { path: 'test/unit/pool/pool.test.ts', text: "import '../../../host/pool/pool.ts';\n" },
    { path: 'host/sys/long.ts', text: 'x;\n'.repeat(fileLinesMax) },
    { path: 'host/sys/link.ts', text: `// https://example.org/${'x'.repeat(columnsMax)}\n` },
  ];
}

function readRepository(): SourceFile[] {
  const patterns = [`{${roots.join(',')}}/**/*.{ts,mts,cts,js,mjs,cjs,sh}`, 'ops/hatch', '.ci/run'];
  const exclude = (path: string): boolean => basename(path) === 'node_modules';
  const paths = globSync(patterns, { cwd: repository, exclude });
  return paths
    .filter((path) => existsSync(join(repository, path)))
    .map((path) => ({ path, text: readFileSync(join(repository, path), 'utf8') }));
}

function check(files: SourceFile[]): Report {
  const report: Report = { problems: [], files: files.length, imports: 0 };
  for (const file of files) {
    checkName(file, report);
    checkSizes(file, report);
    if (/\.[cm]?[jt]s$/.test(file.path)) checkImports(file, report);
  }
  if (report.files < 10 || report.imports < 10) {
    report.problems.push(`saw ${report.files} files and ${report.imports} imports: too few`);
  }
  return report;
}

function checkName({ path }: SourceFile, { problems }: Report): void {
  if (forbiddenNames.has(basename(path))) problems.push(`${path}: name it after what it holds`);
  if (dirname(path) === 'host' && !compositionFiles.has(basename(path))) {
    problems.push(`${path}: only ${[...compositionFiles].join(', ')} are outside a folder`);
  }
}

function checkSizes({ path, text }: SourceFile, { problems }: Report): void {
  const lines = text.replace(/\n$/, '').split('\n');
  if (lines.length > fileLinesMax) {
    problems.push(`${path}: ${lines.length} lines, at most ${fileLinesMax}`);
  }
  for (const [index, line] of lines.entries()) {
    if (line.length > columnsMax && !/https?:\/\//.test(line)) {
      problems.push(`${path}:${index + 1}: ${line.length} columns, at most ${columnsMax}`);
    }
  }
}

const staticImport = /^[ \t]*(?:import|export)\b(?:[^'";]*?\bfrom)?\s*['"]([^'"]+)['"]/gm;
const dynamicImport = /\b(?:import|require)\(\s*['"]([^'"]+)['"]/g;

function checkImports(file: SourceFile, report: Report): void {
  // The samples above are text with imports in it: they are judged by their own test.
  if (file.path === 'test/architecture.test.ts') return;
  for (const pattern of [staticImport, dynamicImport]) {
    for (const [, target] of file.text.matchAll(pattern)) {
      report.imports++;
      const problem = judgeImport(file.path, target ?? '');
      if (problem !== undefined) report.problems.push(`${file.path}: ${problem}`);
    }
  }
}

function judgeImport(path: string, target: string): string | undefined {
  if (target === 'koffi' && path !== koffiOwner) return `koffi belongs to ${koffiOwner}`;
  if (!target.startsWith('.')) return undefined;
  const from = folderOf(path);
  const to = folderOf(normalize(join(dirname(path), target)));
  if (from === to) return undefined;
  if (from.startsWith('host')) return judgeHostImport(from, to);
  if (from.startsWith('runtime-init') && !to.startsWith('runtime-init')) {
    return runtimeInitMayImport.has(to) ? undefined : `runtime-init may not import ${to}`;
  }
  if (from.startsWith('functions/') && to !== 'functions') return `a function may not import ${to}`;
  return undefined;
}

function judgeHostImport(from: string, to: string): string | undefined {
  const fromLevel = levelOf.get(from);
  const toLevel = levelOf.get(to);
  if (fromLevel === undefined) return `folder ${from} has no level`;
  if (toLevel === undefined) return `imports ${to}, which has no level`;
  return toLevel < fromLevel ? undefined : `${from} may not import ${to}`;
}

/** `host/pool` of `host/pool/policy/lru.ts`; `host` of `host/main.ts`. */
function folderOf(path: string): string {
  return dirname(path).split('/').slice(0, 2).join('/');
}
