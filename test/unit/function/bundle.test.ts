import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { extract } from 'tar-stream';
import { bundleFunction } from '../../../host/function/bundle.ts';
import type { FunctionBundle } from '../../../host/function/bundle.ts';
import { parseManifest } from '../../../host/function/manifest.ts';

const run = promisify(execFile);

test('a bundle is one CommonJS file with its map, owned by the function', async (context) => {
  const { bundle, entries } = await bundled(context, {
    'handler.ts': `import { twice } from './lib/twice.ts';
      export const handler = (n: number): number => twice(n);`,
    'lib/twice.ts': 'export const twice = (n: number): number => n * 2;',
  });
  assert.equal(bundle.entryPath, '/function/index.cjs');
  assert.deepEqual([...entries.keys()].sort(), [
    'function/',
    'function/index.cjs',
    'function/index.cjs.map',
  ]);
  for (const { uid, gid } of entries.values()) assert.deepEqual([uid, gid], [1000, 1000]);
  assert.deepEqual(JSON.parse(text(entries, 'function/index.cjs.map')).sources, [
    'handler.ts',
    'lib/twice.ts',
  ]);
  assert.equal(await evaluate(context, entries, 'loaded.handler(21)'), '42');
});

test('the digest and size are those of the file', async (context) => {
  const { bundle } = await bundled(context, { 'handler.ts': 'export const handler = () => 1;' });
  const bytes = await readFile(bundle.layerFile);
  const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex');
  assert.equal(bundle.layer.digest, `sha256:${sha256(bytes)}`);
  assert.equal(bundle.layer.diffId, `sha256:${sha256(gunzipSync(bytes))}`);
  assert.equal(bundle.layer.sizeBytes, bytes.length);
});

test('equal sources give equal digests, wherever the folder is', async (context) => {
  const sources = { 'handler.ts': 'export const handler = () => import.meta.url;', 'a.txt': 'a' };
  const first = await bundled(context, sources, ['*.txt']);
  const second = await bundled(context, sources, ['*.txt']);
  assert.deepEqual(first.bundle.layer, second.bundle.layer);
  const other = await bundled(context, { ...sources, 'a.txt': 'b' }, ['*.txt']);
  assert.notEqual(other.bundle.layer.digest, first.bundle.layer.digest);
});

test('import.meta works in the CommonJS bundle', async (context) => {
  const { entries } = await bundled(context, {
    'handler.ts': `export const handler = () =>
      [import.meta.url, import.meta.filename, import.meta.dirname].join(' ');`,
  });
  const result = await evaluate(context, entries, 'loaded.handler()');
  assert.match(result, /^file:\/\/(\S+\/index\.cjs) \1 \S+\/function$/);
});

test('a bundle that never asks for its URL does not make one', async (context) => {
  const { entries } = await bundled(context, { 'handler.ts': 'export const handler = () => 1;' });
  assert.doesNotMatch(text(entries, 'function/index.cjs'), /pathToFileURL/);
});

test('a stack trace names the line of the TypeScript source', async (context) => {
  const { entries } = await bundled(context, {
    'handler.ts': `interface Event { n: number }

export const handler = (event: Event) => {
  throw new Error('stop ' + event.n);
};`,
  });
  const stackOf =
    '(() => { try { loaded.handler({ n: 1 }) } catch (error) { return error.stack } })()';
  const stack = await evaluate(context, entries, stackOf);
  assert.match(stack, /Error: stop 1[\s\S]*function\/handler\.ts:4:9/);
});

test('an entry that awaits at its top becomes an ES module', async (context) => {
  const { bundle, entries } = await bundled(context, {
    'handler.ts': `import { createRequire } from 'node:module';
      import old from './old.cjs';
      const require = createRequire(import.meta.url);
      const base = await Promise.resolve(40);
      export const handler = () => base + old + require('node:path').join('', '2').length;`,
    'old.cjs': "module.exports = require('node:path').join('', '1').length;",
  });
  assert.equal(bundle.entryPath, '/function/index.mjs');
  assert.equal(await evaluate(context, entries, 'loaded.handler()'), '42');
});

test('an error in the sources is refused with file, line and column', async (context) => {
  await assert.rejects(
    bundled(context, { 'handler.ts': 'export const a = 1;\nexport const = 2;' }),
    {
      code: 'deploy.invalid',
      message: /^Cannot bundle "handler\.ts": handler\.ts:2:14: Expected identifier/,
    },
  );
  await assert.rejects(bundled(context, { 'handler.ts': "import 'no-such-package';" }), {
    code: 'deploy.invalid',
    message: /handler\.ts:1:8: Could not resolve "no-such-package"/,
  });
  await assert.rejects(bundled(context, { 'other.ts': '' }), { code: 'deploy.invalid' });
});

test('further files keep their content and executable bit', async (context) => {
  const { bundle, entries } = await bundled(
    context,
    { 'handler.ts': '', 'data/a.txt': 'A', 'data/deep/b.txt': 'B', 'tool.sh': '#!/bin/sh\n' },
    ['data/**/*.txt', 'tool.sh'],
  );
  assert.deepEqual(bundle.files, [
    '/function/index.cjs',
    '/function/index.cjs.map',
    '/function/data/a.txt',
    '/function/data/deep/b.txt',
    '/function/tool.sh',
  ]);
  assert.equal(text(entries, 'function/data/deep/b.txt'), 'B');
  assert.equal(entries.get('function/data/a.txt')?.mode, 0o644);
  assert.equal(entries.get('function/tool.sh')?.mode, 0o755);
  assert.equal(entries.get('function/data/deep/')?.uid, 1000);
});

test('build.ts generates files that are shipped, and its failure is told', async (context) => {
  const good = {
    'handler.ts': '',
    'build.ts': `import { writeFileSync } from 'node:fs';
      writeFileSync(process.argv[2] + '/made.txt', 'made' as string);`,
  };
  const { entries } = await bundled(context, good, ['made.txt']);
  assert.equal(text(entries, 'function/made.txt'), 'made');
  const bad = { 'handler.ts': '', 'build.ts': "throw new Error('no luck');" };
  await assert.rejects(bundled(context, bad, ['made.txt']), {
    code: 'deploy.invalid',
    message: /^Cannot run ".*build\.ts": [\s\S]*no luck/,
  });
});

test('files that cannot be shipped are refused', async (context) => {
  const sources = { 'handler.ts': '', 'index.cjs': '' };
  const refused = (message: RegExp) => ({ code: 'deploy.invalid', message });
  await assert.rejects(bundled(context, sources, ['*.db']), refused(/files "\*\.db": none found/));
  await assert.rejects(bundled(context, sources, ['index.cjs']), refused(/rename the file/));
  const directory = await folder(context, sources);
  await symlink('/etc/passwd', join(directory, 'link'));
  await assert.rejects(bundle(context, directory, ['link']), refused(/only regular files/));
});

interface Entry {
  mode: number;
  uid: number;
  gid: number;
  content: Buffer;
}

async function bundled(context: TestContext, sources: Record<string, string>, files?: string[]) {
  return bundle(context, await folder(context, sources), files);
}

async function bundle(
  context: TestContext,
  directory: string,
  files: string[] = [],
): Promise<{ bundle: FunctionBundle; entries: Map<string, Entry> }> {
  const outputDirectory = await temporary(context);
  const manifest = parseManifest({ name: 'sample', entry: 'handler.ts', files });
  const result = await bundleFunction({ directory, manifest, outputDirectory });
  return { bundle: result, entries: await unpack(result.layerFile) };
}

async function unpack(file: string): Promise<Map<string, Entry>> {
  const entries = new Map<string, Entry>();
  const reader = extract();
  reader.end(gunzipSync(await readFile(file)));
  for await (const entry of reader) {
    const chunks: Buffer[] = [];
    for await (const chunk of entry) chunks.push(chunk as Buffer);
    const { name, mode, uid, gid } = entry.header;
    entries.set(name, { mode, uid, gid, content: Buffer.concat(chunks) });
  }
  return entries;
}

/** Runs the bundle in a Node of its own, as an instance would. */
async function evaluate(
  context: TestContext,
  entries: Map<string, Entry>,
  expression: string,
): Promise<string> {
  const root = await temporary(context);
  for (const [path, { content, mode }] of entries) {
    if (path.endsWith('/')) continue;
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), content, { mode });
  }
  const file = join(
    root,
    'function',
    entries.has('function/index.mjs') ? 'index.mjs' : 'index.cjs',
  );
  const script = `process.setSourceMapsEnabled(true);
    import(${JSON.stringify(file)}).then((loaded) => console.log(${expression}))`;
  const { stdout } = await run(process.execPath, ['-e', script], { cwd: root });
  return stdout.trim();
}

function text(entries: Map<string, Entry>, path: string): string {
  return entries.get(path)?.content.toString() ?? assert.fail(`no entry ${path}`);
}

async function folder(context: TestContext, sources: Record<string, string>): Promise<string> {
  const directory = await temporary(context);
  for (const [path, content] of Object.entries(sources)) {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), content);
    if (path.endsWith('.sh')) await chmod(join(directory, path), 0o755);
  }
  return directory;
}

async function temporary(context: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'hatch-bundle-'));
  context.after(() => rm(directory, { recursive: true }));
  return directory;
}
