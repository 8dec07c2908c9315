/** A Node.js that cannot be forked: the zygote finds out by itself, and the host says so. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildImage } from '../../images/build.ts';
import { readRecipe } from '../../images/recipe.ts';
import { startHost } from '../support/host.ts';

const repository = join(import.meta.dirname, '..', '..');

test('where forking does not work, the host says so and boots its instances', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'hatch-unforkable-'));
  const baseImageDirectory = join(directory, 'image');
  try {
    await buildImage({
      recipe: await readRecipe('node24'),
      outputDirectory: baseImageDirectory,
      cacheDirectory: join(repository, '.cache', 'build'),
      runtimeEntry: join(repository, 'test', 'functions', 'unforkable-runtime.ts'),
    });
    const host = await startHost({ config: { baseImageDirectory, parked: 0, fork: 'auto' } });
    try {
      assert.match(host.output, /Zygote does not fork \(Cannot fork Node\.js v24/);
      const { startRecord } = await host.deploy(join(repository, 'functions', 'hello'));
      assert.equal(startRecord.path, 'booted');
      const reply = await host.call('hello', { name: 'Ada' });
      assert.deepEqual(reply.json(), { greeting: 'Hello, Ada!' });
    } finally {
      await host.stop();
    }
  } finally {
    await rm(directory, { recursive: true });
  }
});
