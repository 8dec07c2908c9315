import { DatabaseSync } from 'node:sqlite';
import { fileURLToPath } from 'node:url';
import type { Handler } from '../types.ts';

export interface Posting {
  account: number;
  /** What to add; negative to take. */
  amount: number;
}

export interface Balance {
  account: number;
  balance: number;
}

/** `{ "account": 7, "amount": 5 }` books 5 and gives the new balance. */
export const handler = createHandler(fileURLToPath(new URL('ledger.db', import.meta.url)));

/**
 * The database ships in the read-only layer. Opening it for writing makes overlayfs copy all of it
 * up, so it is opened in the first call, where the copy can be seen; later calls write to the copy.
 */
export function createHandler(path: string): Handler<Posting, Balance> {
  let database: DatabaseSync | undefined;
  return ({ account, amount }) => {
    if (!Number.isSafeInteger(account) || !Number.isSafeInteger(amount)) {
      throw new TypeError('Give { "account": integer, "amount": integer }');
    }
    database ??= openDatabase(path);
    const row = database
      .prepare('UPDATE account SET balance = balance + ? WHERE id = ? RETURNING balance')
      .get(amount, account);
    if (row === undefined) throw new RangeError(`There is no account ${account}`);
    return { account, balance: Number(row['balance']) };
  };
}

function openDatabase(path: string): DatabaseSync {
  const database = new DatabaseSync(path);
  // The copy ends with the instance: there is nothing to keep over a power cut.
  database.exec('PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY');
  return database;
}
