/** One host that serves the distribution interface, as seen from one repository. */
import { z } from 'zod';
import { HatchError } from '../../base/errors.ts';
import { Authorizer } from './authorizer.ts';
import type { Credentials } from './credentials.ts';
import { PassingFailure, isPassingStatus, parseRetryAfter } from './retry.ts';
import { discard, readBody } from './transport.ts';
import type { HttpAnswer, HttpRequest, Transport } from './transport.ts';

export interface EndpointOptions {
  transport: Transport;
  /** As in references. */
  registry: string;
  host: string;
  isPlain: boolean;
  credentials: () => Promise<Credentials | undefined>;
  stallMs: number;
}

export interface RepositoryRequest extends Omit<HttpRequest, 'url' | 'isPlainAllowed'> {
  repository: string;
  /** After `/v2/<repository>/`, or absolute where the registry named the place. */
  target: string | URL;
  actions: 'pull' | 'pull,push' | 'pull,push,delete';
  /** Of the same registry, to mount blobs from. */
  alsoPullFrom?: string | undefined;
  /** Codes of failures that may pass, besides statuses that say so. */
  passingCodes?: readonly string[];
  /** Answers that are not failures. */
  expected: readonly number[];
  what: string;
}

const problemBytesMax = 64 * 1024;
const problemSchema = z.object({
  errors: z.array(z.object({ code: z.string(), message: z.string().nullish() })).min(1),
});

export class Endpoint {
  readonly host: string;
  readonly #options: EndpointOptions;
  readonly #authorizer: Authorizer;

  constructor(options: EndpointOptions) {
    this.host = options.host;
    this.#options = options;
    const { transport, registry, credentials, stallMs } = options;
    const { isPlain: isPlainAllowed } = options;
    const send = (request: Omit<HttpRequest, 'isPlainAllowed'>) =>
      transport.send({ ...request, isPlainAllowed });
    this.#authorizer = new Authorizer({ registry, send, credentials, stallMs });
  }

  /**
   * Sends a request, with proof of who we are where it is wanted. Throws a `PassingFailure`,
   * `image.not_found`, `image.registry_denied` or `image.registry_failed`.
   */
  async ask(request: RepositoryRequest): Promise<HttpAnswer> {
    const scope = scopeOf(request);
    const known = this.#authorizer.header(scope);
    let answer = await this.#send(request, known);
    if (answer.status === 401) {
      discard(answer);
      const wwwAuthenticate = answer.headers['www-authenticate'];
      const { signal } = request;
      const asked = { wwwAuthenticate, scope, refused: known, signal };
      const header = await this.#authorizer.prove(asked);
      // What was read from a stream is gone: whoever has it begins again.
      if (hasStream(request)) throw new PassingFailure(`"${this.host}" wants a new token`);
      answer = await this.#send(request, header);
    }
    if (request.expected.includes(answer.status)) return answer;
    throw await this.#failure(request, answer);
  }

  #send(request: RepositoryRequest, authorization: string | undefined): Promise<HttpAnswer> {
    const { transport, host, isPlain } = this.#options;
    const { repository, target, method, body, signal } = request;
    const base = `${isPlain ? 'http' : 'https'}://${host}/v2/${repository}/`;
    const url = typeof target === 'string' ? new URL(base + target) : target;
    // A place outside of the registry has a proof of its own in its address.
    const proof = authorization === undefined || url.host !== host ? {} : { authorization };
    return transport.send({
      method,
      url,
      headers: { ...request.headers, ...proof },
      ...(body === undefined ? {} : { body }),
      signal,
      isPlainAllowed: isPlain,
    });
  }

  async #failure(request: RepositoryRequest, answer: HttpAnswer): Promise<Error> {
    const { status, headers } = answer;
    const { code, said } = await this.#problem(request, answer);
    const told = `registry "${this.host}" answered ${status}${said === '' ? '' : ` (${said})`}`;
    if (isPassingStatus(status) || request.passingCodes?.includes(code) === true) {
      const retryAfterMs = parseRetryAfter(headers['retry-after'], Date.now());
      return new PassingFailure(told, { retryAfterMs });
    }
    const message = `Cannot ${request.what}: ${told}`;
    if (status === 404)
      return new HatchError('image.not_found', `${message}; check its name`, {
        details: { status },
      });
    if (status === 401 || status === 403)
      return new HatchError(
        'image.registry_denied',
        `${message}; check that it exists and that who the host is logged in as may have it`,
        { details: { status } },
      );
    return new HatchError('image.registry_failed', message, { details: { status } });
  }

  /** A code of the distribution specification, where the registry gives one, and what to show. */
  async #problem(
    { method }: RepositoryRequest,
    answer: HttpAnswer,
  ): Promise<{ code: string; said: string }> {
    const nothing = { code: '', said: '' };
    if (method === 'HEAD') return nothing;
    try {
      const limits = { bytesMax: problemBytesMax, stallMs: this.#options.stallMs };
      const text = (await readBody(answer, limits)).toString('utf8');
      const { errors } = problemSchema.parse(JSON.parse(text));
      const [first] = errors;
      const explained = [first?.code, first?.message ?? ''].filter(Boolean).join(': ');
      // What strangers send goes into logs and terminals.
      const said = explained.replaceAll(/[^\u0020-\u007e]/g, '?').slice(0, 200);
      return { code: first?.code ?? '', said };
    } catch {
      return nothing;
    }
  }
}

function scopeOf({ repository, actions, alsoPullFrom }: RepositoryRequest): string {
  const own = `repository:${repository}:${actions}`;
  return alsoPullFrom === undefined ? own : `${own} repository:${alsoPullFrom}:pull`;
}

function hasStream({ body }: RepositoryRequest): boolean {
  return body !== undefined && !Buffer.isBuffer(body);
}
