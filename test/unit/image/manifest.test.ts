import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { digestOf } from '../../../host/image/digest.ts';
import {
  mediaType,
  parseConfig,
  parseIndex,
  parseManifest,
  referenceAnnotation,
  selectEntry,
} from '../../../host/image/manifest.ts';
import type { Descriptor, Platform } from '../../../host/image/manifest.ts';

const amd64: Platform = { os: 'linux', architecture: 'amd64' };
const arm64: Platform = { os: 'linux', architecture: 'arm64' };

function bytes(json: unknown): Buffer {
  return Buffer.from(JSON.stringify(json));
}

function entry(name: string, platform?: Platform, type: string = mediaType.manifest): Descriptor {
  return {
    mediaType: type,
    digest: digestOf(name + String(platform?.architecture)),
    size: 1,
    annotations: { [referenceAnnotation]: name },
    ...(platform === undefined ? {} : { platform }),
  };
}

function index(...manifests: Descriptor[]) {
  return parseIndex(bytes({ schemaVersion: 2, manifests }));
}

describe('an index', () => {
  test('gives the entry of the wanted platform', () => {
    const both = index(entry('a', amd64), entry('a', arm64));
    assert.deepEqual(selectEntry(both, { platform: arm64 }), entry('a', arm64));
  });

  test('gives the entry of the wanted name', () => {
    const both = index(entry('a', amd64), entry('b', amd64));
    assert.deepEqual(selectEntry(both, { platform: amd64, reference: 'b' }), entry('b', amd64));
  });

  test('asks for a name when several images would do', () => {
    const both = index(entry('a', amd64), entry('b', amd64));
    assert.throws(() => selectEntry(both, { platform: amd64 }), {
      code: 'image.invalid',
      message:
        'Cannot choose an image for linux/amd64: name one of "a" (linux/amd64), "b" (linux/amd64)',
    });
  });

  test('says what it has when it has not what is wanted', () => {
    assert.throws(() => selectEntry(index(entry('a', arm64)), { platform: amd64 }), {
      code: 'image.not_found',
      message: 'Cannot find image for linux/amd64: the index has "a" (linux/arm64)',
    });
    assert.throws(() => selectEntry(index(), { platform: amd64 }), { message: /has no images$/ });
  });

  test('may hold other things, which are passed over, and other indexes', () => {
    const mixed = index(
      entry('signature', undefined, 'application/vnd.example.signature'),
      entry('a', undefined, mediaType.index),
    );
    assert.equal(selectEntry(mixed, { platform: amd64 }).mediaType, mediaType.index);
  });
});

describe('documents from outside', () => {
  const layer = {
    mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
    digest: digestOf('l'),
    size: 1,
  };
  const manifest = {
    schemaVersion: 2,
    config: { mediaType: mediaType.config, digest: digestOf('c'), size: 1 },
    layers: [layer],
  };

  test('are read with what they hold beyond what we know', () => {
    const parsed = parseManifest(bytes({ ...manifest, subject: { anything: 1 } }));
    assert.deepEqual(parsed.layers, [layer]);
  });

  test('are refused when they are malformed', () => {
    const broken: unknown[] = [
      { ...manifest, schemaVersion: 1 },
      { ...manifest, layers: [] },
      { ...manifest, layers: [{ ...layer, digest: 'sha256:../../etc/passwd' }] },
      { ...manifest, layers: [{ ...layer, size: -1 }] },
      { ...manifest, layers: [{ ...layer, size: 1.5 }] },
      { ...manifest, layers: Array.from({ length: 129 }, () => layer) },
      { ...manifest, layers: [{ ...layer, mediaType: 'application/x-foreign' }] },
      null,
    ];
    for (const document of broken)
      assert.throws(() => parseManifest(bytes(document)), { code: 'image.invalid' });
    assert.throws(() => parseManifest(Buffer.from('{')), { message: /it is no JSON/ });
  });

  test('a configuration may leave out all but its layers, or say null', () => {
    const least = { architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [] } };
    const expected = {
      architecture: 'amd64',
      os: 'linux',
      user: '',
      env: {},
      entrypoint: [],
      command: [],
      workingDirectory: '',
      labels: {},
      diffIds: [],
    };
    assert.deepEqual(parseConfig(bytes(least)), expected);
    const nulls = { Env: null, Entrypoint: null, Cmd: null, Labels: null };
    assert.deepEqual(parseConfig(bytes({ ...least, config: nulls })), expected);
    assert.deepEqual(parseConfig(bytes({ ...least, config: { Env: ['A=1', 'B', 'C=x=y'] } })).env, {
      A: '1',
      B: '',
      C: 'x=y',
    });
  });
});
