import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { parseManifest } from '../../../host/function/manifest.ts';

const data = { name: 'data', path: '/data', sizeMb: 64 };

test('volumes are taken as they are written', () => {
  const volumes = [data, { name: 'a-1', path: '/data-2/My_app.d/..a', sizeMb: 65_536 }];
  assert.deepEqual(parse(volumes).volumes, volumes);
  const most = Array.from({ length: 8 }, (_, n) => ({ ...data, name: `v${n}`, path: `/v${n}` }));
  assert.equal(parse(most).volumes.length, 8);
});

test('a path that is not free, or not plain, is refused by its field', () => {
  const unclear = ['data', '', '/', '/data/', '//data', '/data/../etc', '/./data', '/a b', '/a\n'];
  const kernel = ['/proc', '/proc/1', '/sys', '/dev/shm', '/tmp/x'];
  const runtime = [
    '/hatch',
    '/function/x',
    '/etc',
    '/run/secrets',
    '/run',
    '/usr/lib',
    '/bin',
    '/srv/x',
  ];
  const home = ['/home', '/home/function', '/home/function/x'];
  for (const path of [...unclear, ...kernel, ...runtime, ...home])
    assert.equal(problemOf([{ ...data, path }]), 'volumes[0].path', JSON.stringify(path));
  assert.equal(parse([{ ...data, path: '/home/functions' }]).volumes.length, 1);
});

test('other mistakes are refused by their field', () => {
  const nine = Array.from({ length: 9 }, (_, n) => ({ ...data, name: `v${n}`, path: `/v${n}` }));
  const cases: [volumes: unknown[], path: string][] = [
    [[{ ...data, name: '../x' }], 'volumes[0].name'],
    [[{ ...data, name: '.x' }], 'volumes[0].name'],
    [[{ ...data, name: '' }], 'volumes[0].name'],
    [[{ ...data, sizeMb: 15 }], 'volumes[0].sizeMb'],
    [[{ ...data, sizeMb: 65_537 }], 'volumes[0].sizeMb'],
    [[{ name: 'data', path: '/data' }], 'volumes[0].sizeMb'],
    [[{ ...data, mode: 'ro' }], 'volumes[0].mode'],
    [[data, { ...data, path: '/other' }], 'volumes[1].name'],
    [[data, { ...data, name: 'other' }], 'volumes[1].path'],
    [[data, { ...data, name: 'below', path: '/data/below' }], 'volumes[1].path'],
    [
      [
        { ...data, path: '/data/below' },
        { ...data, name: 'above' },
      ],
      'volumes[1].path',
    ],
    [nine, 'volumes'],
  ];
  for (const [volumes, path] of cases)
    assert.equal(problemOf(volumes), path, JSON.stringify(volumes));
});

test('the root beside volumes is on another file system than they', () => {
  assert.equal(parse([data]).storage, 'overlay');
  assert.equal(parse([]).storage, undefined);
  assert.equal(problemOf([data], { storage: 'btrfs' }), 'storage');
  assert.equal(problemOf([data], { storage: 'overlay' }), undefined);
  assert.equal(problemOf([], { storage: 'btrfs' }), undefined);
});

function parse(volumes: unknown, more = {}) {
  return parseManifest({ name: 'fn', entry: 'handler.ts', volumes, ...more });
}

function problemOf(volumes: unknown, more = {}): string | undefined {
  try {
    parse(volumes, more);
    return undefined;
  } catch (error) {
    assert.ok(error instanceof HatchError && error.code === 'deploy.invalid');
    const [problem] = error.details['problems'] as { path: string }[];
    assert.ok(problem !== undefined && error.message.includes(problem.path));
    return problem.path;
  }
}
