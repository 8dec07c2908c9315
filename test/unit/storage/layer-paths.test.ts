import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import { LayerPaths } from '../../../host/storage/layer-paths.ts';

test('layers are told uppermost first', () => {
  const paths = new LayerPaths();
  assert.deepEqual(paths.lowerOptions(['/bottom', '/top'], 'append'), [
    { key: 'lowerdir+', value: '/top' },
    { key: 'lowerdir+', value: '/bottom' },
  ]);
  assert.deepEqual(paths.lowerOptions(['/bottom', '/top'], 'list'), [
    { key: 'lowerdir', value: '/top:/bottom' },
  ]);
  paths.close();
});

test('a path that the kernel would misread or refuse goes by descriptor, until close', () => {
  const place = fs.mkdtempSync(`${tmpdir()}/hatch-paths-`);
  const paths = new LayerPaths();
  try {
    for (const name of ['a:b', 'a,b', 'a\\b', `${'x'.repeat(200)}/${'y'.repeat(100)}`]) {
      const path = `${place}/${name}`;
      fs.mkdirSync(path, { recursive: true });
      const short = paths.short(path);
      assert.match(short, /^\/proc\/self\/fd\/\d+$/);
      assert.equal(fs.readlinkSync(short), path);
    }
    assert.equal(paths.short(place), place);
    const before = fs.readdirSync('/proc/self/fd').length;
    paths.close();
    assert.equal(fs.readdirSync('/proc/self/fd').length, before - 4);
  } finally {
    paths.close();
    fs.rmSync(place, { recursive: true });
  }
});
