-- The directories of each address.
SELECT auction, bidder, price, channel,
       split_part(url, '/', 4) AS directory_1, split_part(url, '/', 5) AS directory_2, split_part(url, '/', 6) AS directory_3
FROM bid
