/** What a repository holds, of a registry that answers in its own way. */
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import type { Endpoint, RepositoryRequest } from '../../../host/image/registry/endpoint.ts';
import { parseRemoteName } from '../../../host/image/registry/remote-name.ts';
import { Repository } from '../../../host/image/registry/repository.ts';

interface Answer {
  status: number;
  body?: unknown;
  link?: string;
}

const digest = `sha256:${'0'.repeat(64)}` as const;

/** Answers in this order; `asked` are the targets. */
function makeRepository(...answers: Answer[]) {
  const asked: string[] = [];
  const ask = ({ target }: RepositoryRequest) => {
    const url = new URL(target, 'https://registry.example/v2/team/bundles/');
    asked.push(url.pathname.slice(1) + url.search);
    const { status, body, link } = answers.shift() ?? { status: 500 };
    const headers = link === undefined ? {} : { link };
    return Promise.resolve({
      url,
      status,
      headers,
      body: Readable.from([Buffer.from(JSON.stringify(body ?? {}))]),
    });
  };
  const repository = new Repository({
    endpoint: { ask } as unknown as Endpoint,
    policy: { attemptsMax: 1, firstWaitMs: 1, waitMaxMs: 1 },
    stallMs: 1000,
    name: parseRemoteName('registry.example/team/bundles'),
  });
  return { repository, asked };
}

test('a list is read page by page, to its end', async () => {
  const { repository, asked } = makeRepository(
    {
      status: 200,
      body: { tags: ['a', 'b'] },
      link: '</v2/team/bundles/tags/list?last=b>; rel="next"',
    },
    { status: 200, body: { tags: ['c'] } },
  );
  assert.deepEqual(await repository.tags(), ['a', 'b', 'c']);
  assert.deepEqual(asked, ['v2/team/bundles/tags/list', 'v2/team/bundles/tags/list?last=b']);
});

test('a next page of another host is not asked for: it would get our proof', async () => {
  const link = '<https://other.example/v2/team/bundles/tags/list?last=a>; rel="next"';
  const { repository, asked } = makeRepository({ status: 200, body: { tags: ['a'] }, link });
  assert.deepEqual(await repository.tags(), ['a']);
  assert.equal(asked.length, 1);
});

test('a repository without anything, and one whose tags are all gone, have none', async () => {
  const { repository } = makeRepository({ status: 404 }, { status: 200, body: { tags: null } });
  assert.deepEqual(await repository.tags(), []);
  assert.deepEqual(await repository.tags(), []);
});

test('an answer that is no list is named', async () => {
  const { repository } = makeRepository({ status: 200, body: { tags: 'a' } });
  await assert.rejects(repository.tags(), { code: 'image.registry_failed', message: /not a list/ });
});

test('a registry that does not delete is no failure', async () => {
  const { repository } = makeRepository({ status: 405 }, { status: 202 }, { status: 404 });
  const deleted = [];
  for (let time = 0; time < 3; time++) deleted.push(await repository.deleteManifest(digest));
  assert.deepEqual(deleted, [false, true, false]);
});
