import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { handler as hello } from '../../../functions/hello/handler.ts';
import { createHandler } from '../../../functions/ledger/handler.ts';
import {
  accountCount,
  databaseBytes,
  makeDatabase,
  openingBalance,
} from '../../../functions/ledger/make-database.ts';
import { handler as markdown } from '../../../functions/markdown/handler.ts';
import { handler as spawn } from '../../../functions/spawn/handler.ts';
import type { HandlerContext } from '../../../functions/types.ts';
import { bundleFunction } from '../../../host/function/bundle.ts';
import { readManifest } from '../../../host/function/manifest.ts';

const functionsDirectory = join(import.meta.dirname, '../../../functions');
const context: HandlerContext = {
  requestId: 'r1',
  awsRequestId: 'r1',
  functionName: 'example',
  functionVersion: '1',
  memoryLimitInMB: 128,
  getRemainingTimeInMillis: () => 1000,
  signal: new AbortController().signal,
  subject: 'hatch.fn.example',
  headers: {},
  attempt: 1,
};

test('hello greets', async () => {
  assert.deepEqual(await hello({ name: 'Ada' }, context), { greeting: 'Hello, Ada!' });
  assert.deepEqual(await hello(undefined, context), { greeting: 'Hello, world!' });
});

test('markdown renders and removes what could run', async () => {
  const source = '# Hi\n\n[x](javascript:alert(2)) **bold** <script>alert(1)</script>';
  const { html } = await markdown({ markdown: source }, context);
  assert.match(html, /<h1>Hi<\/h1>/);
  assert.match(html, /<strong>bold<\/strong>/);
  assert.doesNotMatch(html, /script/);
  await assert.rejects(
    async () => markdown({ markdown: 'x'.repeat(300_000) }, context),
    RangeError,
  );
});

test('ledger books amounts in its database, which is 8 MiB and always the same', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'hatch-ledger-'));
  t.after(() => rm(directory, { recursive: true }));
  const [path, again] = [join(directory, 'a.db'), join(directory, 'b.db')];
  makeDatabase(path);
  makeDatabase(again);
  const bytes = await readFile(path);
  assert.equal(bytes.length, databaseBytes);
  assert.ok(bytes.equals(await readFile(again)));
  const ledger = createHandler(path);
  const account = accountCount;
  assert.deepEqual(await ledger({ account, amount: 5 }, context), {
    account,
    balance: openingBalance + 5,
  });
  assert.deepEqual(await ledger({ account, amount: -7 }, context), {
    account,
    balance: openingBalance - 2,
  });
  assert.throws(() => ledger({ account: accountCount + 1, amount: 1 }, context), RangeError);
  assert.throws(() => ledger({ account: 1, amount: 0.5 }, context), TypeError);
});

test('spawn leaves orphans and sees them in /proc', async () => {
  const seen = await spawn({ count: 3, lifetimeMs: 200 }, context);
  assert.equal(seen.started, 3);
  assert.ok(seen.processes >= 4);
  await assert.rejects(async () => spawn({ count: 1000 }, context), RangeError);
});

test('every example bundles to the same digest twice', async (t) => {
  for (const name of ['hello', 'markdown', 'ledger', 'spawn']) {
    const digests = [];
    for (let round = 0; round < 2; round++) {
      const outputDirectory = await mkdtemp(join(tmpdir(), 'hatch-example-'));
      t.after(() => rm(outputDirectory, { recursive: true }));
      const directory = join(functionsDirectory, name);
      const manifest = await readManifest(directory);
      const { layer } = await bundleFunction({ directory, manifest, outputDirectory });
      digests.push(layer.digest);
    }
    assert.equal(digests[0], digests[1], name);
  }
});
