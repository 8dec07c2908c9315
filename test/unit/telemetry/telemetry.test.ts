import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, test } from 'node:test';
import { channels } from '../../../host/base/channels.ts';
import { nowNs } from '../../../host/base/clock.ts';
import { startTraceExport } from '../../../host/telemetry/otlp.ts';
import { startTelemetry } from '../../../host/telemetry/telemetry.ts';
import { callRecord, hotCall, logRecord } from './records.ts';

interface Received {
  path: string;
  spans: { name: string; traceId: string; parentSpanId?: string; startTimeUnixNano: string }[];
  resource: { key: string; value: { stringValue: string } }[];
}

/** A collector as far as OTLP/HTTP with JSON goes. */
async function startCollector(answer: () => number = () => 200) {
  const received: Received[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const status = answer();
    if (status === 200) {
      const body = JSON.parse(Buffer.concat(chunks).toString()) as {
        resourceSpans: {
          resource: { attributes: Received['resource'] };
          scopeSpans: { spans: Received['spans'] }[];
        }[];
      };
      for (const { resource, scopeSpans } of body.resourceSpans) {
        const spans = scopeSpans.flatMap((scope) => scope.spans);
        received.push({ path: request.url ?? '', spans, resource: resource.attributes });
      }
    }
    response.writeHead(status, { 'content-type': 'application/json' }).end('{}');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  };
  return { endpoint, received, [Symbol.asyncDispose]: close };
}

describe('telemetry', () => {
  test('keeps what is published, from its start until its end', async () => {
    const telemetry = startTelemetry({ traceCountMax: 10, logBytesMax: 10_000 });
    const record = hotCall({ requestId: 'r-kept' });
    channels.callEnd.publish(record);
    channels.log.publish(logRecord({ text: 'kept\n' }));
    await telemetry.stop();
    channels.callEnd.publish(hotCall({ requestId: 'r-late' }));
    channels.log.publish(logRecord({ text: 'late\n' }));

    assert.equal(telemetry.traces.find('r-kept'), record);
    assert.equal(telemetry.traces.find('r-late'), undefined);
    const texts = telemetry.logs.find({ functionName: 'hello' }).map(({ text }) => text);
    assert.deepEqual(texts, ['kept\n']);
    assert.equal(channels.callEnd.hasSubscribers, false);
    assert.equal(channels.log.hasSubscribers, false);
  });

  test('publishes output by function and instance, whatever the publisher throws', async () => {
    const published: [string, unknown][] = [];
    const errors: string[] = [];
    const telemetry = startTelemetry({
      traceCountMax: 10,
      logBytesMax: 10_000,
      publish: (subject, json) => {
        if (subject.endsWith('i-bad')) throw new Error('connection closed');
        published.push([subject, JSON.parse(json)]);
      },
      onError: (message) => errors.push(message),
    });
    channels.log.publish(logRecord({ instanceId: 'i-9' }));
    channels.log.publish(logRecord({ instanceId: 'i-bad' }));
    await telemetry.stop();
    assert.deepEqual(published, [['hatch.logs.hello.i-9', logRecord({ instanceId: 'i-9' })]]);
    assert.equal(errors.length, 1);
    assert.match(errors[0] ?? '', /^Cannot publish the output of function "hello":.*closed/);
  });

  test('exports calls to a collector, with the time of day', async () => {
    await using collector = await startCollector();
    const telemetry = startTelemetry({
      otlpEndpoint: collector.endpoint,
      hostName: 'hatch-test',
      traceCountMax: 10,
      logBytesMax: 10_000,
    });
    const beforeMs = Date.now();
    channels.callEnd.publish(callRecord({}, nowNs()));
    await telemetry.stop();

    const [request] = collector.received;
    assert.equal(request?.path, '/v1/traces');
    assert.deepEqual(
      request?.spans.map(({ name }) => name),
      ['invoke', 'queue', 'start', 'start.fork', 'start.rootfs', 'start.load', 'handler'].map(
        (name) => `hatch.${name}`,
      ),
    );
    const host = request?.resource.find(({ key }) => key === 'host.name');
    assert.equal(host?.value.stringValue, 'hatch-test');
    const startedMs = Number(BigInt(request?.spans[0]?.startTimeUnixNano ?? 0) / 1_000_000n);
    assert.ok(Math.abs(startedMs - beforeMs) < 1000, `${startedMs} is not near ${beforeMs}`);
  });
});

describe('the export of traces', () => {
  test('sends in batches while calls go on', async () => {
    await using collector = await startCollector();
    const traceExport = startTraceExport({
      endpoint: `${collector.endpoint}/v1/traces/`,
      hostName: undefined,
      onError: assert.fail,
      batchIntervalMs: 10,
    });
    for (let call = 0; call < 600; call++) traceExport.add(hotCall());
    // Its timer keeps no process alive; this one does.
    const deadline = performance.now() + 5000;
    while (traceExport.counts.exported < 600 && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await traceExport.stop();
    assert.deepEqual(traceExport.counts, { exported: 600, dropped: 0 });
    assert.equal(collector.received.length, 3);
    assert.equal(collector.received.flatMap(({ spans }) => spans).length, 1800);
  });

  test('drops calls over its bound, and says so once', async () => {
    await using collector = await startCollector();
    const errors: string[] = [];
    const { endpoint } = collector;
    const onError = (message: string): number => errors.push(message);
    const traceExport = startTraceExport({
      endpoint,
      hostName: undefined,
      onError,
      queueLengthMax: 5,
    });
    for (let call = 0; call < 20; call++) traceExport.add(hotCall());
    await traceExport.stop();
    traceExport.add(hotCall());
    assert.deepEqual(traceExport.counts, { exported: 5, dropped: 15 });
    assert.deepEqual(errors, [
      `Cannot export the traces of 1 calls to "${endpoint}": the queue is full`,
    ]);
  });

  test('gives up what a collector refuses or nobody takes, without throwing', async () => {
    await using collector = await startCollector(() => 400);
    const unused = createServer().listen(0, '127.0.0.1');
    await once(unused, 'listening');
    const nobody = `http://127.0.0.1:${(unused.address() as AddressInfo).port}`;
    unused.close();
    for (const endpoint of [collector.endpoint, nobody]) {
      const errors: string[] = [];
      const onError = (message: string): number => errors.push(message);
      const traceExport = startTraceExport({
        endpoint,
        hostName: undefined,
        onError,
        timeoutMs: 500,
      });
      traceExport.add(hotCall());
      await traceExport.stop();
      assert.deepEqual(traceExport.counts, { exported: 0, dropped: 1 });
      assert.equal(errors.length, 1, endpoint);
    }
  });

  test('costs a call next to nothing', () => {
    const telemetry = startTelemetry({ traceCountMax: 10_000, logBytesMax: 1024 });
    const records = Array.from({ length: 50_000 }, (_, id) => hotCall({ requestId: `r-${id}` }));
    const startNs = nowNs();
    for (const record of records) channels.callEnd.publish(record);
    const eachNs = (nowNs() - startNs) / records.length;
    void telemetry.stop();
    // A few hundred nanoseconds when the machine is idle; an order more would be a mistake.
    assert.ok(eachNs < 10_000, `${eachNs} ns a call`);
  });
});
