/** A repository as a place to keep things: what it holds, by tag, and taking it away again. */
import { HatchError } from '../../base/errors.ts';
import { digestOf } from '../digest.ts';
import type { Digest } from '../digest.ts';
import { documentBytesMax } from '../image-documents.ts';
import { mediaType } from '../manifest.ts';
import type { Endpoint, RepositoryRequest } from './endpoint.ts';
import type { RemoteName } from './remote-name.ts';
import { z } from 'zod';
import { retrying } from './retry.ts';
import type { RetryPolicy } from './retry.ts';
import { discard, readBody } from './transport.ts';
import type { HttpAnswer } from './transport.ts';

export interface RepositoryOptions {
  endpoint: Endpoint;
  policy: RetryPolicy;
  stallMs: number;
  name: RemoteName;
}

const tagsSchema = z.object({ tags: z.array(z.string()).nullish() });
/** Of one page of a list. */
const pageBytesMax = 4 * 1024 * 1024;
const pagesMax = 1000;

export class Repository {
  readonly #options: RepositoryOptions;

  constructor(options: RepositoryOptions) {
    this.#options = options;
  }

  /** None when nothing was ever pushed. */
  async tags(): Promise<string[]> {
    const tags: string[] = [];
    let target: string | URL | undefined = 'tags/list';
    for (let page = 0; target !== undefined && page < pagesMax; page++) {
      const { bytes, answer } = await this.#read(target, 'application/json', pageBytesMax);
      if (bytes === undefined) return tags;
      tags.push(...(this.#parseTags(bytes).tags ?? []));
      target = nextPage(answer);
    }
    return tags;
  }

  /** The manifest that a tag stands for; undefined when there is no such tag. */
  async manifest(tag: string): Promise<{ digest: Digest; bytes: Buffer } | undefined> {
    const { bytes } = await this.#read(`manifests/${tag}`, mediaType.manifest, documentBytesMax);
    return bytes === undefined ? undefined : { digest: digestOf(bytes), bytes };
  }

  /** With all tags of it. Many registries refuse to: false then, and when it is gone already. */
  async deleteManifest(digest: Digest): Promise<boolean> {
    const answer = await this.#ask({
      method: 'DELETE',
      target: `manifests/${digest}`,
      actions: 'pull,push,delete',
      // 405, and 400 with its code for it: by the specification, deleting is not for all.
      expected: [202, 400, 404, 405],
      what: `delete ${digest} of "${this.#options.name.reference}"`,
    });
    discard(answer);
    return answer.status === 202;
  }

  async #read(
    target: string | URL,
    accept: string,
    bytesMax: number,
  ): Promise<{ bytes: Buffer | undefined; answer: HttpAnswer }> {
    const { stallMs, policy, name } = this.#options;
    const what = `read "${name.reference}"`;
    return retrying({ what, policy, signal: undefined }, async () => {
      const headers = { accept, 'accept-encoding': 'identity' };
      const expected = [200, 404];
      const asked = { method: 'GET', target, actions: 'pull', headers, expected, what } as const;
      const answer = await this.#options.endpoint.ask({ ...asked, repository: name.repository });
      if (answer.status === 200)
        return { bytes: await readBody(answer, { bytesMax, stallMs }), answer };
      discard(answer);
      return { bytes: undefined, answer };
    });
  }

  #ask(request: Omit<RepositoryRequest, 'repository'>): Promise<HttpAnswer> {
    const { policy, name, endpoint } = this.#options;
    const { repository } = name;
    return retrying({ what: request.what, policy, signal: undefined }, () =>
      endpoint.ask({ ...request, repository }),
    );
  }

  #parseTags(bytes: Buffer): z.infer<typeof tagsSchema> {
    try {
      return tagsSchema.parse(JSON.parse(bytes.toString('utf8')));
    } catch (cause) {
      const { reference } = this.#options.name;
      const message = `Cannot list the tags of "${reference}": the answer is not a list`;
      throw new HatchError('image.registry_failed', message, { cause });
    }
  }
}

/** `Link: </v2/…?last=…>; rel="next"`, of the same host only. */
function nextPage({ headers, url }: HttpAnswer): URL | undefined {
  const link = /<([^>]*)>\s*;\s*rel="?next"?/.exec(String(headers['link'] ?? ''))?.[1];
  const next = link === undefined ? null : URL.parse(link, url.href);
  return next?.host === url.host ? next : undefined;
}
