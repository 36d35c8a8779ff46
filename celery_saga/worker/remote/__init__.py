"""Remote steps in a worker: requests, replies, and the tasks of participants."""
