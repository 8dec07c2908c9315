/** A registry on loopback that serves one image of a layout, and misbehaves on request. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { isDigest } from '../../host/image/digest.ts';
import { mediaType } from '../../host/image/manifest.ts';
import { blobPath } from '../../host/image/oci-layout.ts';
import type { TestLayout } from './image-layout.ts';

/** What it does to requests for blobs that are larger than `smallBytesMax`. */
export type Misdeed =
  | 'none'
  /** Closes the connection after a part, and knows ranges. */
  | 'break'
  /** Closes after a part once, and always sends all. */
  | 'break-without-ranges'
  /** Ends well, too early, each time. */
  | 'truncate'
  | 'wrong-bytes'
  | 'wrong-length'
  /** Sends more than there is. */
  | 'endless'
  | 'stall'
  | 'trickle'
  /** 429 twice, then well. */
  | 'busy-twice'
  | 'busy-for-an-hour'
  | 'always-failing'
  /** Sends on to plain HTTP elsewhere for ever. */
  | 'redirect-loop';

const partBytes = 300_000;
const smallBytesMax = 10_000;

export class HostileRegistry implements AsyncDisposable {
  misdeed: Misdeed = 'none';
  /** Of the manifest; that of OCI by default. */
  manifestType: string = mediaType.manifest;
  /** Requests for large blobs. */
  asked = 0;
  readonly host: string;
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
    this.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  static async start(layout: TestLayout): Promise<HostileRegistry> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const registry = new HostileRegistry(server);
    server.on('request', (request, response) => registry.#answer(layout, request, response));
    return registry;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  #answer(layout: TestLayout, request: IncomingMessage, response: ServerResponse): void {
    const [, kind, name = ''] = /\/(manifests|blobs)\/(.+)$/.exec(request.url ?? '') ?? [];
    const digest = isDigest(name) ? name : layout.digest;
    const bytes = readFileSync(blobPath(layout.directory, digest));
    if (kind === 'manifests') response.setHeader('content-type', this.manifestType);
    if (kind === 'manifests' || bytes.length <= smallBytesMax) {
      response.end(bytes);
      return;
    }
    this.asked += 1;
    this.#misbehave(bytes, request, response);
  }

  #misbehave(bytes: Buffer, request: IncomingMessage, response: ServerResponse): void {
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const isFirst = this.asked === 1;
    switch (this.misdeed) {
      case 'none':
        response.end(bytes);
        break;
      case 'break':
        response.statusCode = from === 0 ? 200 : 206;
        if (from > 0)
          response.setHeader('content-range', `bytes ${from}-${bytes.length - 1}/${bytes.length}`);
        response.setHeader('content-length', bytes.length - from);
        this.#sendPart(bytes.subarray(from), response);
        break;
      case 'break-without-ranges':
        response.setHeader('content-length', bytes.length);
        if (isFirst) this.#sendPart(bytes, response);
        else response.end(bytes);
        break;
      case 'truncate':
        response.write(bytes.subarray(0, partBytes));
        response.end();
        break;
      case 'wrong-bytes':
        response.end(Buffer.from(bytes.map((byte, index) => (index === 5000 ? byte ^ 1 : byte))));
        break;
      case 'wrong-length':
        response.setHeader('content-length', bytes.length + 1);
        response.end(Buffer.concat([bytes, Buffer.alloc(1)]));
        break;
      case 'endless':
        response.write(bytes);
        response.end(Buffer.alloc(partBytes));
        break;
      case 'stall':
        response.setHeader('content-length', bytes.length);
        response.write(bytes.subarray(0, partBytes));
        break;
      case 'trickle':
        this.#trickle(bytes, response);
        break;
      case 'busy-twice':
        if (this.asked > 2) response.end(bytes);
        else this.#refuse(response, 429, '0');
        break;
      case 'busy-for-an-hour':
        this.#refuse(response, 429, '3600');
        break;
      case 'always-failing':
        this.#refuse(response, 503, undefined);
        break;
      case 'redirect-loop':
        response.writeHead(307, { location: request.url ?? '' }).end();
        break;
    }
  }

  #sendPart(bytes: Buffer, response: ServerResponse): void {
    if (bytes.length <= partBytes) response.end(bytes);
    // What was written gets through before the connection ends.
    else response.write(bytes.subarray(0, partBytes), () => response.socket?.end());
  }

  #trickle(bytes: Buffer, response: ServerResponse): void {
    response.setHeader('content-length', bytes.length);
    let sent = 0;
    const timer = setInterval(() => response.write(bytes.subarray(sent, ++sent)), 10);
    response.once('close', () => clearInterval(timer));
  }

  #refuse(response: ServerResponse, status: number, retryAfter: string | undefined): void {
    const headers = retryAfter === undefined ? {} : { 'retry-after': retryAfter };
    response.writeHead(status, headers).end('{"errors":[{"code":"TOOMANYREQUESTS"}]}');
  }
}
