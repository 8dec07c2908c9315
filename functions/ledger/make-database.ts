import { DatabaseSync } from 'node:sqlite';

export const accountCount = 1000;
export const openingBalance = 100;
/** What overlayfs copies at the first write, however small that is. */
export const databaseBytes = 8 * 1024 * 1024;

const pageBytes = 4096;
const statementBytes = 3000;

/** Writes accounts and a long past to the new file `path`; always the same bytes. */
export function makeDatabase(path: string): void {
  const database = new DatabaseSync(path);
  try {
    database.exec(`
      PRAGMA page_size = ${pageBytes};
      PRAGMA journal_mode = OFF;
      PRAGMA synchronous = OFF;
      BEGIN;
      CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL) STRICT;
      CREATE TABLE statement (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
    `);
    const account = database.prepare('INSERT INTO account (id, balance) VALUES (?, ?)');
    for (let id = 1; id <= accountCount; id++) account.run(id, openingBalance);
    const statement = database.prepare('INSERT INTO statement (text) VALUES (?)');
    const pageCount = database.prepare('PRAGMA page_count');
    const wanted = databaseBytes / pageBytes;
    for (let number = 1; Number(pageCount.get()?.['page_count']) < wanted; number++) {
      statement.run(`Statement ${number} `.padEnd(statementBytes, '.'));
    }
    database.exec('COMMIT');
  } finally {
    database.close();
  }
}
