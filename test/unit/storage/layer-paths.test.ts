import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import { LayerPaths } from '../../../host/storage/layer-paths.ts';

const place = fs.mkdtempSync(`${tmpdir()}/hatch-paths-`);
process.on('exit', () => fs.rmSync(place, { recursive: true }));

test('layers are told uppermost first, by one descriptor of their parent', () => {
  for (const name of ['bottom', 'top']) fs.mkdirSync(`${place}/${name}`);
  const paths = new LayerPaths();
  const layers = [`${place}/bottom`, `${place}/top`];
  const values = paths.lowerOptions(layers, 'append').map(({ value }) => value);
  assert.deepEqual(
    values.map((value) => fs.realpathSync(value)),
    layers.toReversed(),
  );
  const [, parent] = /^(\/proc\/self\/fd\/\d+)\/top$/.exec(values[0] ?? '') ?? [];
  assert.equal(values[1], `${parent}/bottom`);
  assert.deepEqual(paths.lowerOptions(layers, 'list'), [
    { key: 'lowerdir', value: `${parent}/top:${parent}/bottom` },
  ]);
  paths.close();
});

test('a name that the kernel would misread or refuse is not told', () => {
  const paths = new LayerPaths();
  const before = fs.readdirSync('/proc/self/fd').length;
  for (const name of ['a:b', 'a,b', String.raw`a\b`, 'y'.repeat(200)]) {
    const path = `${place}/${name}`;
    fs.mkdirSync(path);
    const told = paths.nameOf(path);
    assert.match(told, /^\/proc\/self\/fd\/\d+$/);
    assert.equal(fs.readlinkSync(told), path);
  }
  assert.equal(fs.readdirSync('/proc/self/fd').length, before + 4);
  paths.close();
  assert.equal(fs.readdirSync('/proc/self/fd').length, before);
});
