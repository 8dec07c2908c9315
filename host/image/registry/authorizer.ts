/** Proves to a registry who we are: basic authentication, or a token from its token service. */
import { addAbortListener } from 'node:events';
import { z } from 'zod';
import { HatchError } from '../../base/errors.ts';
import { parseChallenges } from './challenge.ts';
import type { Challenge } from './challenge.ts';
import type { Credentials } from './credentials.ts';
import { PassingFailure, isPassingStatus, parseRetryAfter } from './retry.ts';
import { discard, readBody } from './transport.ts';
import type { HttpAnswer, HttpRequest } from './transport.ts';

export interface AuthorizerOptions {
  /** As in references, for credentials and messages. */
  registry: string;
  send: (request: TokenRequest) => Promise<HttpAnswer>;
  credentials: () => Promise<Credentials | undefined>;
  /** How long the token service may say nothing. */
  stallMs: number;
}

type TokenRequest = Omit<HttpRequest, 'isPlainAllowed'>;

interface Proof {
  header: string;
  expiresAtMs: number;
}

const tokenSchema = z.object({
  token: z.string().optional(),
  access_token: z.string().optional(),
  expires_in: z.number().optional(),
});
const tokenBytesMax = 1024 * 1024;
/** What a token is good for when its service does not say, by the specification. */
const lifetimeDefaultS = 60;
/** A token is not used in its last seconds, which it might spend on the way. */
const marginMs = 5000;

export class Authorizer {
  readonly #options: AuthorizerOptions;
  readonly #proofs = new Map<string, Proof>();
  /** By scope: requests that are refused at the same time ask for one proof together. */
  readonly #underWay = new Map<string, Promise<Proof>>();

  constructor(options: AuthorizerOptions) {
    this.#options = options;
  }

  /** The header that worked for that scope and still does. */
  header(scope: string): string | undefined {
    const proof = this.#proofs.get(scope);
    return proof !== undefined && proof.expiresAtMs > Date.now() ? proof.header : undefined;
  }

  /**
   * Answers a 401, `refused` being the header that was sent, if any. Throws
   * `image.registry_denied` when there is nothing to answer with.
   */
  async prove(options: {
    wwwAuthenticate: string | undefined;
    scope: string;
    refused: string | undefined;
    signal: AbortSignal | undefined;
  }): Promise<string> {
    const { wwwAuthenticate = '', scope, refused, signal } = options;
    const known = this.header(scope);
    // Another request was quicker.
    if (known !== undefined && known !== refused) return known;
    this.#proofs.delete(scope);
    let proof = this.#underWay.get(scope);
    if (proof === undefined) {
      proof = this.#prove(scope, wwwAuthenticate).finally(() => this.#underWay.delete(scope));
      this.#underWay.set(scope, proof);
    }
    // It is not stopped by one who no longer waits: others may.
    return (await unlessAborted(proof, signal)).header;
  }

  async #prove(scope: string, wwwAuthenticate: string): Promise<Proof> {
    const challenges = parseChallenges(wwwAuthenticate);
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    const credentials = await this.#options.credentials();
    const proof =
      bearer === undefined
        ? this.#basic(challenges, credentials)
        : await this.#fetchToken(bearer, { scope, credentials });
    this.#proofs.set(scope, proof);
    return proof;
  }

  #basic(challenges: Challenge[], credentials: Credentials | undefined): Proof {
    const { registry } = this.#options;
    if (!challenges.some(({ scheme }) => scheme === 'basic'))
      throw this.#denied(`registry "${registry}" asks for a proof that is not supported`);
    if (credentials?.kind !== 'password')
      throw this.#denied(`registry "${registry}" wants a user and password`);
    return { header: basicHeader(credentials), expiresAtMs: Infinity };
  }

  async #fetchToken(
    { parameters }: Challenge,
    asked: { scope: string; credentials: Credentials | undefined },
  ): Promise<Proof> {
    const { registry, send, stallMs } = this.#options;
    const realm = URL.parse(parameters.get('realm') ?? '');
    if (realm === null) throw this.#denied(`registry "${registry}" names no token service`);
    const request = tokenRequest(realm, parameters.get('service'), asked);
    const answer = await send(request);
    if (isPassingStatus(answer.status)) {
      discard(answer);
      throw new PassingFailure(`token service "${realm.host}" answered ${answer.status}`, {
        retryAfterMs: parseRetryAfter(answer.headers['retry-after'], Date.now()),
      });
    }
    if (answer.status !== 200) {
      discard(answer);
      throw this.#denied(`token service "${realm.host}" answered ${answer.status}`);
    }
    const bytes = await readBody(answer, { bytesMax: tokenBytesMax, stallMs });
    const token = tokenSchema.safeParse(parseJson(bytes)).data;
    const text = token?.token ?? token?.access_token;
    if (text === undefined || !/^[\u0021-\u007e]+$/.test(text))
      throw this.#denied(`token service "${realm.host}" gave no token`);
    const lifetimeMs = (token?.expires_in ?? lifetimeDefaultS) * 1000;
    return { header: `Bearer ${text}`, expiresAtMs: Date.now() + lifetimeMs - marginMs };
  }

  #denied(reason: string): HatchError {
    const { registry } = this.#options;
    return new HatchError(
      'image.registry_denied',
      `Cannot log in: ${reason}; run "docker login ${registry}" or the like on the host`,
    );
  }
}

function tokenRequest(
  realm: URL,
  service: string | undefined,
  { scope, credentials }: { scope: string; credentials: Credentials | undefined },
): TokenRequest {
  if (credentials?.kind === 'identity-token') {
    const form = new URLSearchParams({
      grant_type: 'refresh_token',
      refresh_token: credentials.token,
      service: service ?? '',
      scope,
      client_id: 'hatch',
    });
    const headers = { 'content-type': 'application/x-www-form-urlencoded' };
    return { method: 'POST', url: realm, headers, body: Buffer.from(form.toString()) };
  }
  const url = new URL(realm);
  if (service !== undefined) url.searchParams.set('service', service);
  for (const one of scope.split(' ')) url.searchParams.append('scope', one);
  if (credentials === undefined) return { method: 'GET', url };
  url.searchParams.set('account', credentials.username);
  return { method: 'GET', url, headers: { authorization: basicHeader(credentials) } };
}

async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  using _listening = signal && addAbortListener(signal, () => aborted.reject(signal.reason));
  return await Promise.race([work, aborted.promise]);
}

function basicHeader({ username, password }: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
}
