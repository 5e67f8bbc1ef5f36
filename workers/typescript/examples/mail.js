// A worker for the queue `mail-tasks`.
//
//     node workers/typescript/examples/mail.js http://127.0.0.1:7467

import { Failure, LATER, Worker, currentContext } from "@backstitch/worker";

const worker = new Worker({ url: process.argv[2] ?? "http://127.0.0.1:7467", taskQueue: "mail-tasks" });

/** @param {{ to: string, text: string }} mail */
async function sendMail(mail) {
  if (!mail.to.includes("@")) {
    throw new Failure("bad-address", `${JSON.stringify(mail.to)} is no address`, { retryable: false });
  }
  // A mail server that knows this key sends the mail once, however often it is asked.
  return `sent ${mail.text.length} characters under ${currentContext().idempotencyKey}`;
}

worker.activities({
  send_mail: sendMail,

  /** @param {{ to: string, text: string }[]} mails */
  async send_all(mails) {
    const context = currentContext();
    let done = Number(context.heartbeatDetails ?? 0);
    for (const mail of mails.slice(done)) {
      context.signal.throwIfAborted();
      await sendMail(mail);
      context.heartbeat(++done);
    }
    return done;
  },

  /** @param {string} question */
  ask(question) {
    console.log(`${question} Answer with ${currentContext().token}`);
    return LATER;
  },
});

await worker.run();
