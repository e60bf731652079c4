#include "simulate/rank.hpp"

#include <algorithm>

namespace optalloc::simulate {

namespace {

std::size_t at(int id) { return static_cast<std::size_t>(id); }

}  // namespace

Rank::Rank(const KindInput& kind, const RequestInput& in, bool hands_over)
    : chunk_tokens_(kind.chunk_tokens),
      max_batch_(kind.max_batch),
      block_tokens_(in.block_tokens),
      extra_(kind.extra),
      hands_over_(hands_over),
      blocks_(kind.blocks, in.node_blocks),
      crossings_(at(in.block_tokens), 0) {}

// A sequence of offset f holds f + turn tokens and needs a block where that is a multiple of a block.
std::int64_t& Rank::crossing(std::int64_t offset) {
    const std::int64_t rest = offset % block_tokens_;
    const std::int64_t turn = rest > 0 ? block_tokens_ - rest : -rest;
    return crossings_[static_cast<std::size_t>(turn)];
}

void Rank::arrive(int id, Book& book) {
    State& s = book.state[at(id)];
    s.order = arrivals_++;
    s.prompt = book.in.input[at(id)];
    waiting_.push_back(id);
}

void Rank::release(int id, const Book& book) {
    const std::int64_t prompt = book.in.input[at(id)];
    let_go(id, prompt, held(prompt) - book.in.shared[at(id)], book);
}

Work Rank::plan(Tick now, Book& book) {
    Work work;
    chunks_.clear();
    bool crowded = false;
    if (decoding_ > 0) {
        const auto turn = static_cast<std::size_t>(turns_ % block_tokens_);
        while (crossings_[turn] > blocks_.available()) {
            blocks_.drop_idle();
            preempt(book);
            crowded = true;
        }
        blocks_.take(crossings_[turn]);
    }
    int budget = chunk_tokens_ - decoding_;
    if (partial_ >= 0 && budget > 0) {
        const State& s = book.state[at(partial_)];
        const int id = partial_, tokens = std::min(s.prompt - s.computed, budget);
        budget -= tokens;
        if (tokens == s.prompt - s.computed) partial_ = -1;
        chunk(id, tokens, book, work);
    }
    while (!crowded && partial_ < 0 && budget > 0 && running_ < max_batch_ && !waiting_.empty()) {
        if (!admit(now, book, work, budget)) break;
    }
    work.decoding = decoding_;
    work.context = context_;
    work.settled = !crowded && chunks_.empty();
    return work;
}

// Sends the last of the batch back to the head of the queue; it starts afresh with what it has generated.
void Rank::preempt(Book& book) {
    const int id = tail_;
    State& s = book.state[at(id)];
    if (s.decoding) stop_decoding(id, book);
    else partial_ = -1;
    leave(id, book);
    s.prompt = book.in.input[at(id)] + s.generated;
    s.handed = false;
    ++book.out.preemptions[at(id)];
    waiting_.push_front(id);
}

bool Rank::admit(Tick now, Book& book, Work& work, int& budget) {
    const int id = waiting_.front();
    State& s = book.state[at(id)];
    const std::int64_t own = held(s.handed ? s.prompt + 1 : s.prompt) - book.in.shared[at(id)];
    const Blocks::Path path = book.in.path_of(id);
    if (!blocks_.fits(own, path)) return false;
    waiting_.pop_front();
    // The last token is read in any case, for its answer.
    const std::int64_t found = std::min<std::int64_t>(blocks_.pin(path), (s.prompt - 1) / block_tokens_);
    blocks_.take(own);
    append(id, book);
    if (s.handed) {
        s.computed = s.prompt;
        join(id, book);
        --budget;
        return true;
    }
    s.computed = static_cast<std::int32_t>(std::max<std::int64_t>(found * block_tokens_, book.in.cached[at(id)]));
    if (book.out.start[at(id)] < 0) {
        book.out.start[at(id)] = now;
        book.out.hits[at(id)] = s.computed;
    }
    const int tokens = std::min(s.prompt - s.computed, budget);
    budget -= tokens;
    if (tokens < s.prompt - s.computed) partial_ = id;
    chunk(id, tokens, book, work);
    return true;
}

void Rank::chunk(int id, int tokens, Book& book, Work& work) {
    const State& s = book.state[at(id)];
    const std::int64_t n = tokens, done = s.computed;
    work.prompts += s.computed + tokens == s.prompt;
    chunks_.push_back({id, tokens});
    work.prompt += tokens;
    work.pairs += n * done + n * (n + 1) / 2;
}

void Rank::join(int id, Book& book) {
    State& s = book.state[at(id)];
    s.decoding = true;
    s.offset = s.prompt - turns_;
    s.last = turns_ + book.in.output[at(id)] - s.generated;
    ++crossing(s.offset);
    ++decoding_;
    context_ += s.prompt + 1;
    endings_.push_back({s.last, s.order, id});
    std::push_heap(endings_.begin(), endings_.end());
}

void Rank::stop_decoding(int id, Book& book) {
    State& s = book.state[at(id)];
    s.decoding = false;
    s.computed = static_cast<std::int32_t>(s.offset + turns_);
    s.generated = static_cast<std::int32_t>(book.in.output[at(id)] - (s.last - turns_));
    --crossing(s.offset);
    --decoding_;
    context_ -= s.computed + 1;
}

void Rank::leave(int id, Book& book) {
    const State& s = book.state[at(id)];
    let_go(id, s.computed, held(std::max(s.computed, s.prompt)) - book.in.shared[at(id)], book);
    remove(id, book);
}

void Rank::let_go(int id, std::int64_t computed, std::int64_t own, const Book& book) {
    const std::int64_t shared = book.in.shared[at(id)];
    const std::int64_t left =
        book.in.leaves_own ? std::max<std::int64_t>(0, blocks_for(computed) - shared) : 0;
    blocks_.give(own - left);
    blocks_.leave(left);
    blocks_.unpin(book.in.path_of(id), shared, computed / block_tokens_);
}

void Rank::append(int id, Book& book) {
    State& s = book.state[at(id)];
    s.before = tail_;
    s.after = -1;
    if (tail_ >= 0) book.state[at(tail_)].after = id;
    else first_ = id;
    tail_ = id;
    ++running_;
}

void Rank::remove(int id, Book& book) {
    const State& s = book.state[at(id)];
    if (s.before >= 0) book.state[at(s.before)].after = s.after;
    else first_ = s.after;
    if (s.after >= 0) book.state[at(s.after)].before = s.before;
    else tail_ = s.before;
    --running_;
}

// A sequence that was sent back has left its entry behind.
void Rank::drop_stale(const Book& book) {
    while (!endings_.empty()) {
        const State& s = book.state[at(endings_.front().id)];
        if (s.decoding && s.last == endings_.front().last && s.order == endings_.front().order) return;
        std::pop_heap(endings_.begin(), endings_.end());
        endings_.pop_back();
    }
}

std::int64_t Rank::most_iterations(const Book& book) {
    if (decoding_ == 0) return INT64_MAX;
    drop_stale(book);
    const std::int64_t until_end = endings_.front().last - turns_;
    // The blocks of the first iteration are taken already; a whole round of turns needs one for each sequence.
    const std::int64_t rounds = blocks_.available() / decoding_;
    std::int64_t room = blocks_.available() - rounds * decoding_, count = 1 + rounds * block_tokens_;
    for (; count < until_end; ++count) {
        room -= crossings_[static_cast<std::size_t>((turns_ + count) % block_tokens_)];
        if (room < 0) break;
    }
    return std::min(count, until_end);
}

void Rank::finish(std::int64_t count, Tick now, Book& book, std::vector<int>& left) {
    const std::size_t begin = left.size();
    if (decoding_ > 0) {
        const std::int64_t rounds = (count - 1) / block_tokens_;
        std::int64_t needed = rounds * decoding_;
        for (std::int64_t k = 1 + rounds * block_tokens_; k < count; ++k) {
            needed += crossings_[static_cast<std::size_t>((turns_ + k) % block_tokens_)];
        }
        blocks_.take(needed);
        turns_ += count;
        context_ += count * decoding_;
        for (drop_stale(book); !endings_.empty() && endings_.front().last == turns_; drop_stale(book)) {
            const int id = endings_.front().id;
            stop_decoding(id, book);
            left.push_back(id);
        }
    }
    for (const Chunk& c : chunks_) {
        State& s = book.state[at(c.id)];
        s.computed += c.tokens;
        if (s.computed < s.prompt) continue;
        if (s.generated++ == 0) book.out.first[at(c.id)] = now;
        if (hands_over_ || s.generated == book.in.output[at(c.id)]) left.push_back(c.id);
        else join(c.id, book);
    }
    const auto mine = left.begin() + static_cast<std::ptrdiff_t>(begin);
    std::sort(mine, left.end(), [&](int a, int b) { return book.state[at(a)].order < book.state[at(b)].order; });
    for (auto it = mine; it != left.end(); ++it) {
        const State& s = book.state[at(*it)];
        if (s.generated == book.in.output[at(*it)]) leave(*it, book);
        else remove(*it, book);  // its blocks stay until they have arrived
    }
    chunks_.clear();
}

}  // namespace optalloc::simulate
