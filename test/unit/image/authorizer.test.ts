/** How a token is asked for, and by how many. */
import assert from 'node:assert/strict';
import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { Authorizer } from '../../../host/image/registry/authorizer.ts';

const wwwAuthenticate = 'Bearer realm="https://tokens.example/token",service="registry"';

/** A token service that numbers its tokens, and answers with `status`, when it is let go. */
function makeService({ status = 200 } = {}) {
  const gate = Promise.withResolvers<void>();
  const service = { asked: 0, status, open: () => gate.resolve() };
  const authorizer = new Authorizer({
    registry: 'registry.example',
    credentials: () => Promise.resolve(undefined),
    stallMs: 1000,
    send: async ({ url }) => {
      const token = ++service.asked;
      await gate.promise;
      const text = JSON.stringify({ token: `t${token}`, expires_in: 300 });
      const body = Readable.from([Buffer.from(text)]);
      return { url, status: service.status, headers: {}, body: body as IncomingMessage };
    },
  });
  const prove = (options: { scope?: string; refused?: string; signal?: AbortSignal } = {}) =>
    authorizer.prove({
      wwwAuthenticate,
      scope: options.scope ?? 'repository:a:pull',
      refused: options.refused,
      signal: options.signal,
    });
  return { service, prove };
}

test('requests that are refused together ask for one token, for each scope', async () => {
  const { service, prove } = makeService();
  const same = Array.from({ length: 10 }, () => prove());
  const other = prove({ scope: 'repository:b:pull' });
  service.open();
  assert.deepEqual(new Set(await Promise.all(same)), new Set(['Bearer t1']));
  assert.equal(await other, 'Bearer t2');
  assert.equal(await prove(), 'Bearer t1', 'who comes later, without a proof, gets the same');
  assert.equal(service.asked, 2);
});

test('a token that was refused is replaced, once', async () => {
  const { service, prove } = makeService();
  service.open();
  const refused = await prove();
  const renewed = await Promise.all([prove({ refused }), prove({ refused })]);
  assert.deepEqual(renewed, ['Bearer t2', 'Bearer t2']);
  assert.equal(await prove({ refused }), 'Bearer t2', 'a late answer to the old one');
  assert.equal(service.asked, 2);
});

test('a failure is for all who wait, and not for who comes after', async () => {
  const { service, prove } = makeService({ status: 401 });
  const both = [prove(), prove()];
  service.open();
  for (const one of both) await assert.rejects(one, { code: 'image.registry_denied' });
  service.status = 200;
  assert.equal(await prove(), 'Bearer t2');
});

test('who no longer waits does not end it for the others', async () => {
  const { service, prove } = makeService();
  const abort = new AbortController();
  const gone = prove({ signal: abort.signal });
  const waiting = prove({ signal: new AbortController().signal });
  abort.abort(new Error('enough'));
  await assert.rejects(gone, /enough/);
  service.open();
  assert.equal(await waiting, 'Bearer t1');
});
