import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { text as textOf } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { CopyUpAccount, pathClassOf } from '../../../host/telemetry/copy-up-account.ts';
import { CopyUpMetricsExport, metricsOf } from '../../../host/telemetry/copy-up-metrics.ts';

const database = '/function/ledger.db';

describe('the account of copy-ups', () => {
  test('sums by class of path and by file', () => {
    const account = new CopyUpAccount();
    assert.equal(account.add({ functionName: 'ledger', copyUps: [] }), false);
    account.add({
      functionName: 'ledger',
      copyUps: [
        { path: database, bytesCopied: 100, bytesChanged: 5, durationNs: 80_000 },
        { path: '/etc/motd', bytesCopied: 7 },
      ],
    });
    account.add({
      functionName: 'ledger',
      copyUps: [{ path: database, bytesCopied: 100, bytesChanged: 9, durationNs: 2e9 }],
    });
    const [ledger] = account.functions();
    assert.equal(ledger?.calls, 2);
    const sums = ledger.byClass.get('function');
    assert.deepEqual(
      [sums?.files, sums?.bytesCopied, sums?.bytesChanged, sums?.durationSeconds],
      [2, 200, 14, 2.00008],
    );
    assert.deepEqual([sums?.durationCounts[1], sums?.durationCounts.at(-1)], [1, 1]);
    assert.equal(ledger.byClass.get('system')?.bytesCopied, 7);
    assert.deepEqual(ledger.files[0], {
      path: database,
      bytesCopied: 200,
      bytesChanged: 14,
      attributesChanged: [],
      durationNs: 2_000_080_000,
    });
  });

  test('stays small, and keeps the files that cost most', () => {
    const account = new CopyUpAccount();
    for (let index = 0; index < 1000; index++) {
      const copyUps = [{ path: `/f/${index}`, bytesCopied: index }];
      account.add({ functionName: 'many', copyUps });
    }
    const [{ files, byClass } = { files: [], byClass: new Map() }] = account.functions();
    assert.equal(files.length, 64);
    assert.ok(files.every(({ bytesCopied }) => bytesCopied >= 936));
    assert.equal(byClass.get('other')?.files, 1000);
    for (let index = 0; index < 2000; index++)
      account.add({ functionName: `f${index}`, copyUps: [{ path: '/a', bytesCopied: 1 }] });
    assert.equal(account.functions().length, 1024);
  });

  test('classes tell of what a path is part', () => {
    const classes = {
      [database]: 'function',
      '/function/node_modules/a/b.js': 'dependencies',
      '/usr/lib/x': 'system',
      '/var/lib/y': 'variable',
      '/data': 'other',
    };
    for (const [path, wanted] of Object.entries(classes)) assert.equal(pathClassOf(path), wanted);
  });
});

test('metrics are cumulative, by function and class', () => {
  const account = new CopyUpAccount();
  const copyUps = [{ path: database, bytesCopied: 8192, bytesChanged: 10, durationNs: 300_000 }];
  account.add({ functionName: 'ledger', copyUps });
  const context = { hostName: 'h1', startMs: 1000, nowMs: 2000 };
  const text = JSON.stringify(metricsOf(account.functions(), context));
  for (const part of [
    '"name":"hatch.copy_up.copied","unit":"By","sum":{"aggregationTemporality":2,"isMonotonic"',
    '{"key":"faas.name","value":{"stringValue":"ledger"}}',
    '{"key":"hatch.path.class","value":{"stringValue":"function"}}',
    '"startTimeUnixNano":"1000000000","timeUnixNano":"2000000000","asInt":"8192"',
    '"count":"1","sum":0.0003,"bucketCounts":["0","0","0","1"',
    '{"key":"host.name","value":{"stringValue":"h1"}}',
  ])
    assert.ok(text.includes(part), `${part} in ${text}`);
});

test('metrics are sent when there is something new, and again when refused', async () => {
  const received: string[] = [];
  const errors: string[] = [];
  const server = createServer(async (request, response) => {
    received.push(`${request.url} ${await textOf(request)}`);
    response.writeHead(received.length === 1 ? 503 : 200).end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const account = new CopyUpAccount();
  const metrics = new CopyUpMetricsExport({
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/traces`,
    hostName: undefined,
    account,
    onError: (message) => errors.push(message),
    intervalMs: 20,
  });
  try {
    await delay(60);
    assert.deepEqual(received, []);
    account.add({ functionName: 'ledger', copyUps: [{ path: database, bytesCopied: 1 }] });
    metrics.noteChange();
    while (received.length < 2) await delay(5);
    await delay(60);
    assert.equal(received.length, 2);
    assert.match(received[1] ?? '', /^\/v1\/metrics .*hatch\.copy_up\.copied/);
    assert.match(errors.join(), /^Cannot export metrics to ".*": it answered 503$/);
  } finally {
    await metrics.stop();
    server.closeAllConnections();
    server.close();
  }
});
