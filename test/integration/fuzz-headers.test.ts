/** Callers who speak the protocol by hand: no headers of theirs harm the host or other calls. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect as connectSocket, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { connect } from '@nats-io/transport-node';
import type { NatsConnection } from '@nats-io/nats-core';
import fc from 'fast-check';
import { startNatsServer, type NatsServer } from '../../host/dispatch/nats-server.ts';
import { startFakeHost, type FakeHost } from '../support/fake-host.ts';

let directory: string;
let server: NatsServer;
let host: FakeHost;
let caller: NatsConnection;
let socket: Socket;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-headers-'));
  server = await startNatsServer({ stateDirectory: directory });
  host = await startFakeHost('one', server);
  caller = await connect({ servers: server.url, token: server.token });
  socket = connectSocket(Number(new URL(server.url).port), '127.0.0.1');
  await once(socket, 'data');
  socket.resume();
  const options = { verbose: false, headers: true, no_responders: true, auth_token: server.token };
  socket.write(`CONNECT ${JSON.stringify(options)}\r\n`);
});
after(async () => {
  socket.destroy();
  await caller.close();
  await host.stop();
  await server.stop();
  await rm(directory, { recursive: true });
});

/** The reply to a call with exactly these bytes for its headers. */
async function call(headers: Buffer): Promise<{ code: string; message: string }> {
  const inbox = `_INBOX.${Math.random().toString(36).slice(2)}`;
  const replies = caller.subscribe(inbox, { max: 1, timeout: 5000 });
  await caller.flush();
  const start = `HPUB hatch.fn.none ${inbox} ${headers.length} ${headers.length}\r\n`;
  socket.write(Buffer.concat([Buffer.from(start), headers, Buffer.from('\r\n')]));
  for await (const message of replies)
    return message.json<{ error: { code: string; message: string } }>().error;
  return assert.fail('no reply');
}

const head = 'NATS/1.0\r\n';

test('a header that is none fails its call, not the host', async () => {
  for (const line of ['a b: c', '\u00e9: x', '\0: x', 'a\rb: x', 'a: b\rc']) {
    const { code, message } = await call(Buffer.from(`${head}${line}\r\n\r\n`));
    assert.equal(code, 'request.invalid', line);
    assert.match(message, /^Cannot read the headers/);
  }
});

test('headers without number are refused before they are read', async () => {
  const lines = Array.from({ length: 100_000 }, (_, index) => `${index.toString(36)}:\r\n`);
  const start = performance.now();
  const { code, message } = await call(Buffer.from(`${head}${lines.join('')}\r\n`));
  assert.equal(code, 'request.too_large');
  assert.match(message, /send at most 16384/);
  assert.ok(performance.now() - start < 1000);
});

test('any headers at all', () => {
  const name = fc.oneof(
    fc.string({ maxLength: 10 }),
    fc.constantFrom('Hatch-Timeout-Ms', 'Hatch-Request-Id', 'traceparent', '__proto__'),
  );
  const line = fc
    .tuple(name, fc.string({ maxLength: 20 }))
    .map(([key, value]) => `${key}:${value}`);
  const proper = fc
    .array(line, { maxLength: 8 })
    .map((all) => `${head}${all.join('\r\n')}\r\n\r\n`);
  const headers = fc.oneof(
    proper.map((text) => Buffer.from(text)),
    fc.uint8Array({ minLength: 1, maxLength: 200 }).map((array) => Buffer.from(array)),
  );
  return fc.assert(
    fc.asyncProperty(headers, async (some) => {
      const { code } = await call(some);
      assert.match(code, /^(?:request\.invalid|function\.not_found)$/);
    }),
    { numRuns: 300, interruptAfterTimeLimit: 4000 },
  );
});
