/** A registry that is not ready for a manifest, and what a push makes of that. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { digestOf } from '../../../host/image/digest.ts';
import { mediaType, parseManifest } from '../../../host/image/manifest.ts';
import { RegistryClient } from '../../../host/image/registry/registry-client.ts';
import { parseRemoteName } from '../../../host/image/registry/remote-name.ts';

/** Has all blobs, and answers a manifest so many times that its digest is wrong. */
async function push(name: 'tag' | 'digest', refusals: number): Promise<number> {
  let puts = 0;
  await using server = createServer((request, response) => {
    if (request.method === 'HEAD') return response.end();
    response.statusCode = ++puts > refusals ? 201 : 400;
    request.resume();
    return response.end(JSON.stringify({ errors: [{ code: 'DIGEST_INVALID' }] }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  using client = new RegistryClient({
    credentialsFile: '/nonexistent',
    insecure: [host],
    policy: { attemptsMax: 3, firstWaitMs: 1, waitMaxMs: 10 },
  });
  const blob = {
    mediaType: 'application/vnd.oci.image.layer.v1.tar',
    digest: digestOf('{}'),
    size: 2,
  };
  const documents = {
    schemaVersion: 2,
    mediaType: mediaType.manifest,
    config: blob,
    layers: [blob],
  };
  const manifestBytes = Buffer.from(JSON.stringify(documents));
  const end = name === 'tag' ? ':1' : `@${digestOf(manifestBytes)}`;
  const blobs = { open: async () => Readable.from([Buffer.from('{}')]) };
  const image = { manifest: parseManifest(manifestBytes), manifestBytes };
  await client.push(parseRemoteName(`${host}/team/app${end}`), image, { blobs });
  return puts;
}

test('a registry that finds a wrong digest where none was given is asked again', async () => {
  assert.equal(await push('tag', 2), 3);
});

test('one that goes on so is named', async () => {
  await assert.rejects(push('tag', 100), {
    code: 'image.registry_failed',
    message: /answered 400 \(DIGEST_INVALID\), 3 times/,
  });
});

test('a digest that was given and is refused is no passing failure', async () => {
  await assert.rejects(push('digest', 1), {
    code: 'image.registry_failed',
    message: /answered 400 \(DIGEST_INVALID\)$/,
  });
});
