/**
 * HTTP to registries: TLS unless the operator said otherwise, redirects followed without taking the
 * credentials along, an answer within a time limit.
 */
import { Agent as PlainAgent, request as requestPlain } from 'node:http';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { Agent as TlsAgent, request as requestTls } from 'node:https';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { getCACertificates } from 'node:tls';
import { HatchError } from '../../base/errors.ts';
import { PassingFailure, connectionFailure } from './retry.ts';

export interface HttpRequest {
  method: 'DELETE' | 'GET' | 'HEAD' | 'PATCH' | 'POST' | 'PUT';
  url: URL;
  headers?: Record<string, string>;
  /** A stream is read once: redirects are not followed then. */
  body?: Buffer | { stream: Readable; sizeBytes: number };
  signal?: AbortSignal | undefined;
  /** The operator allows plain HTTP, here and where this place sends us. */
  isPlainAllowed: boolean;
}

export interface HttpAnswer {
  /** After redirects. */
  url: URL;
  status: number;
  headers: IncomingHttpHeaders;
  /** Read or destroy it. */
  body: IncomingMessage;
}

export interface TransportOptions {
  /** In PEM, in addition to those that Node.js trusts. */
  certificateAuthorities: readonly string[];
  /** How long a registry may say nothing. */
  stallMs: number;
}

const redirectsMax = 5;
const redirectStatuses = [301, 302, 303, 307, 308];
const connectionsMax = 16;
const discardedBytesMax = 16 * 1024;

export class Transport implements Disposable {
  readonly #options: TransportOptions;
  readonly #plain: PlainAgent;
  readonly #tls: TlsAgent;

  constructor(options: TransportOptions) {
    this.#options = options;
    const agent = { keepAlive: true, maxSockets: connectionsMax, proxyEnv: process.env };
    const { certificateAuthorities: own } = options;
    const ca = own.length === 0 ? {} : { ca: [...getCACertificates('default'), ...own] };
    this.#plain = new PlainAgent(agent);
    this.#tls = new TlsAgent({ ...agent, ...ca });
  }

  /** Throws a `PassingFailure`, or `image.registry_failed`. */
  async send(request: HttpRequest): Promise<HttpAnswer> {
    let { url } = request;
    let headers = request.headers ?? {};
    for (let redirects = 0; ; redirects++) {
      const answer = await this.#sendOnce({ ...request, url, headers });
      const { location } = answer.headers;
      if (!redirectStatuses.includes(answer.status) || location === undefined) return answer;
      answer.body.destroy();
      const next = URL.parse(location, url.href);
      if (next === null || redirects === redirectsMax || isStream(request.body))
        throw new HatchError(
          'image.registry_failed',
          `Cannot follow registry "${request.url.host}": it sends on to "${location}"`,
        );
      if (next.host !== url.host || next.protocol !== url.protocol) {
        const { authorization: _authorization, ...rest } = headers;
        headers = rest;
      }
      url = next;
    }
  }

  [Symbol.dispose](): void {
    this.#plain.destroy();
    this.#tls.destroy();
  }

  async #sendOnce(asked: HttpRequest): Promise<HttpAnswer> {
    const { method, url, headers, body, signal } = asked;
    const isPlain = isPlainHttp(asked);
    const { stallMs } = this.#options;
    const length = isStream(body) ? body.sizeBytes : body?.length;
    const options = {
      method,
      agent: isPlain ? this.#plain : this.#tls,
      headers: {
        'user-agent': 'hatch',
        ...headers,
        ...(length === undefined ? {} : { 'content-length': length }),
      },
      ...(signal === undefined ? {} : { signal }),
    };
    const request = isPlain ? requestPlain(url, options) : requestTls(url, options);
    // Of the socket, in either direction, until the answer begins; its reader has its own limit.
    request.setTimeout(stallMs, () =>
      request.destroy(new PassingFailure(`"${url.host}" said nothing for ${stallMs} ms`)),
    );
    const answered = new Promise<IncomingMessage>((resolve, reject) => {
      request.once('response', resolve);
      request.once('error', reject);
    });
    // A registry may answer, and refuse, before all is sent: then the answer counts.
    const sent = isStream(body)
      ? pipeline(body.stream, request).catch((error: unknown) => request.destroy(asError(error)))
      : request.end(body);
    void sent;
    try {
      const message = await answered;
      request.setTimeout(0);
      // What a connection does after its answer was dropped concerns nobody.
      message.on('error', () => {});
      return { url, status: message.statusCode ?? 0, headers: message.headers, body: message };
    } catch (cause) {
      signal?.throwIfAborted();
      if (cause instanceof HatchError || cause instanceof PassingFailure) throw cause;
      throw connectionFailure(url.host, cause);
    }
  }
}

/** Lets go of an answer that is not read: a short one to its end, so that its connection stays. */
export function discard({ headers, body }: HttpAnswer): void {
  if (Number(headers['content-length'] ?? Infinity) <= discardedBytesMax) body.resume();
  else body.destroy();
}

/** Reads a short answer whole. Throws a `PassingFailure`, or `image.registry_failed`. */
export async function readBody(
  { url, body }: HttpAnswer,
  limits: { bytesMax: number; stallMs: number },
): Promise<Buffer> {
  const { bytesMax, stallMs } = limits;
  const stalled = new PassingFailure(`"${url.host}" stopped in the middle of an answer`);
  const timer = setTimeout(() => body.destroy(stalled), stallMs);
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > bytesMax)
        throw new HatchError(
          'image.registry_failed',
          `Cannot read an answer of "${url.host}": it has more than ${bytesMax} bytes`,
        );
      chunks.push(chunk);
      timer.refresh();
    }
  } catch (cause) {
    if (cause instanceof HatchError || cause instanceof PassingFailure) throw cause;
    throw connectionFailure(url.host, cause);
  } finally {
    clearTimeout(timer);
    // After its end this keeps the connection.
    body.destroy();
  }
  return Buffer.concat(chunks);
}

function isPlainHttp({ url: { protocol, host }, isPlainAllowed }: HttpRequest): boolean {
  if (protocol === 'https:') return false;
  if (protocol === 'http:' && isPlainAllowed) return true;
  throw new HatchError(
    'image.registry_failed',
    `Cannot ask "${protocol}//${host}": plain HTTP has to be allowed, by "--insecure" or ` +
      'by "registriesInsecure" of the host',
  );
}

function isStream(body: HttpRequest['body']): body is { stream: Readable; sizeBytes: number } {
  return body !== undefined && !Buffer.isBuffer(body);
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
